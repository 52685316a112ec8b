import contextlib
import uuid

import pytest

from conftest import CommandFailed, until

LATEST = ("--os-placement-api-version", "1.39")


@pytest.fixture
def tree(cli, name, later):
    """A provider with processors and memory, and one below it with a device; both are gone afterwards."""
    cli.text(*LATEST, "resource", "class", "set", "CUSTOM_DEVICE")
    made = []
    for suffix, above, inventory in (("", (), ("VCPU=8", "MEMORY_MB=1024")), ("-device", ("parent",), ("CUSTOM_DEVICE=2",))):
        parent = ("--parent-provider", made[0]) if above else ()
        made.append(cli(*LATEST, "resource", "provider", "create", name + suffix, *parent)["uuid"])
        resources = [word for one in inventory for word in ("--resource", one)]
        cli.text(*LATEST, "resource", "provider", "inventory", "set", made[-1], *resources)

    def gone():
        for provider in reversed(made):
            # A test may have moved or removed it.
            with contextlib.suppress(CommandFailed):
                cli.text(*LATEST, "resource", "provider", "delete", provider)

    later(gone)
    return made


@pytest.fixture
def host(cli):
    """The provider that is this machine."""
    return cli("resource", "provider", "list")[0]


def test_the_machine_is_a_provider_with_an_inventory(cli, host):
    classes = {row["resource_class"]: row for row in cli("resource", "provider", "inventory", "list", host["uuid"])}
    assert {"VCPU", "MEMORY_MB", "DISK_GB"} <= set(classes)
    assert all(row["total"] > 0 for row in classes.values())
    assert "COMPUTE_NODE" in [row["name"] for row in cli("--os-placement-api-version", "1.6", "resource", "provider", "trait", "list", host["uuid"])]


def test_provider_inventory_and_traits_of_ones_own(cli, name, later):
    version = ("--os-placement-api-version", "1.29")
    made = cli(*version, "resource", "provider", "create", name)
    later(cli.text, "resource", "provider", "delete", made["uuid"])
    cli.text(*version, "resource", "class", "create", "CUSTOM_TEST")
    later(cli.text, *version, "resource", "class", "delete", "CUSTOM_TEST")
    cli.text(*version, "resource", "provider", "inventory", "set", "--resource", "CUSTOM_TEST=4", "--resource", "CUSTOM_TEST:reserved=1", made["uuid"])
    later(cli.text, *version, "resource", "provider", "inventory", "delete", made["uuid"])
    candidates = cli(*version, "allocation", "candidate", "list", "--resource", "CUSTOM_TEST=3")
    assert {row["resource provider"] for row in candidates} == {made["uuid"]}
    with pytest.raises(CommandFailed):
        cli.text(*version, "resource", "provider", "inventory", "set", "--resource", "CUSTOM_NOT_THERE=4", made["uuid"])
    assert cli(*version, "allocation", "candidate", "list", "--resource", "CUSTOM_TEST=4") == []


def test_a_server_holds_an_allocation_until_it_is_gone(cli, conn, name, host, later):
    server = conn.compute.create_server(
        name=name, flavor_id=conn.compute.find_flavor("m1.tiny").id, image_id=conn.image.find_image("cirros").id, networks="none"
    )
    later(conn.compute.delete_server, server, ignore_missing=True)
    conn.compute.wait_for_server(server, wait=60)
    allocation = cli("resource", "provider", "allocation", "show", server.id)
    assert [(row["resource_provider"], row["resources"]) for row in allocation] == [(host["uuid"], {"VCPU": 1, "MEMORY_MB": 128, "DISK_GB": 1})]
    conn.compute.delete_server(server)
    conn.compute.wait_for_delete(server, wait=60)
    until("allocation gone", lambda: cli("resource", "provider", "allocation", "show", server.id) == [])


def test_a_volume_holds_an_allocation_that_grows_with_it(cli, conn, name, host, later):
    volume = conn.block_storage.create_volume(name=name, size=1)
    later(conn.block_storage.delete_volume, volume, ignore_missing=True)
    conn.block_storage.wait_for_status(volume, status="available", wait=60)
    disk = cli(*LATEST, "resource", "provider", "list", "--name", f"{host['name']}@local#local")[0]
    assert disk["parent_provider_uuid"] == host["uuid"]
    has = lambda: [(row["resource_provider"], row["resources"]) for row in cli("resource", "provider", "allocation", "show", volume.id)]
    assert has() == [(disk["uuid"], {"CUSTOM_VOLUME_GB": 1})]
    conn.block_storage.extend_volume(volume, 2)
    until("the larger allocation", lambda: has() == [(disk["uuid"], {"CUSTOM_VOLUME_GB": 2})])
    conn.block_storage.wait_for_status(volume, status="available", wait=60)
    used = cli(*LATEST, "resource", "provider", "usage", "show", disk["uuid"])
    assert [row["usage"] >= 2 for row in used if row["resource_class"] == "CUSTOM_VOLUME_GB"] == [True]
    conn.block_storage.delete_volume(volume)
    until("allocation gone", lambda: has() == [])


def test_traits_and_classes_are_listed(cli):
    version = ("--os-placement-api-version", "1.6")
    assert "HW_CPU_X86_AVX2" in [row["name"] for row in cli(*version, "trait", "list")]
    assert {"VCPU", "MEMORY_MB", "PCPU"} <= set(row["name"] for row in cli(*version, "resource", "class", "list"))


def test_providers_are_renamed_moved_and_found(cli, name, tree):
    top, device = tree
    shown = cli(*LATEST, "resource", "provider", "show", device)
    assert (shown["root_provider_uuid"], shown["parent_provider_uuid"]) == (top, top)
    assert {row["uuid"] for row in cli(*LATEST, "resource", "provider", "list", "--in-tree", device)} == {top, device}
    assert [row["uuid"] for row in cli(*LATEST, "resource", "provider", "list", "--name", name)] == [top]
    found = cli(*LATEST, "resource", "provider", "list", "--resource", "CUSTOM_DEVICE=2")
    assert [row["uuid"] for row in found] == [device]
    renamed = cli(*LATEST, "resource", "provider", "set", device, "--name", name + "-renamed", "--parent-provider", top)
    assert renamed["name"] == name + "-renamed"
    with pytest.raises(CommandFailed, match="child"):
        cli.text(*LATEST, "resource", "provider", "delete", top)


def test_inventories_are_set_amended_and_deleted(cli, tree):
    top, _ = tree
    changed = cli(*LATEST, "resource", "provider", "inventory", "class", "set", top, "VCPU", "--total", "16", "--allocation_ratio", "2.0", "--reserved", "1")
    assert (changed["total"], changed["allocation_ratio"], changed["reserved"]) == (16, 2.0, 1)
    assert cli(*LATEST, "resource", "provider", "inventory", "show", top, "VCPU")["total"] == 16
    amended = cli(*LATEST, "resource", "provider", "inventory", "set", top, "--resource", "DISK_GB=10", "--amend")
    assert {row["resource_class"] for row in amended} == {"VCPU", "MEMORY_MB", "DISK_GB"}
    cli.text(*LATEST, "resource", "provider", "inventory", "delete", top, "--resource-class", "DISK_GB")
    assert {row["resource_class"] for row in cli(*LATEST, "resource", "provider", "inventory", "list", top)} == {"VCPU", "MEMORY_MB"}
    cli.text(*LATEST, "resource", "provider", "inventory", "delete", top)
    assert cli(*LATEST, "resource", "provider", "inventory", "list", top) == []


def test_traits_and_aggregates_choose_candidates(cli, name, tree, later):
    top, _ = tree
    trait, aggregate = f"CUSTOM_{uuid.uuid4().hex.upper()}", str(uuid.uuid4())
    cli.text(*LATEST, "trait", "create", trait)
    later(cli.text, *LATEST, "trait", "delete", trait)
    assert cli(*LATEST, "trait", "show", trait)["name"] == trait
    cli.text(*LATEST, "resource", "provider", "trait", "set", top, "--trait", trait)
    later(cli.text, *LATEST, "resource", "provider", "trait", "delete", top)
    assert [row["name"] for row in cli(*LATEST, "resource", "provider", "trait", "list", top)] == [trait]
    assert trait in [row["name"] for row in cli(*LATEST, "trait", "list", "--associated")]
    with pytest.raises(CommandFailed, match="in use"):
        cli.text(*LATEST, "trait", "delete", trait)
    generation = str(cli(*LATEST, "resource", "provider", "show", top)["generation"])
    cli.text(*LATEST, "resource", "provider", "aggregate", "set", top, "--aggregate", aggregate, "--generation", generation)
    assert [row["uuid"] for row in cli(*LATEST, "resource", "provider", "aggregate", "list", top)] == [aggregate]
    with pytest.raises(CommandFailed, match="generation"):
        cli.text(*LATEST, "resource", "provider", "aggregate", "set", top, "--aggregate", aggregate, "--generation", generation)

    def candidates(*words):
        return {row["resource provider"] for row in cli(*LATEST, "allocation", "candidate", "list", "--resource", "VCPU=1", *words)}

    assert candidates("--required", trait) == candidates("--member-of", aggregate) == {top}
    assert top not in candidates("--forbidden", trait)
    assert [row["uuid"] for row in cli(*LATEST, "resource", "provider", "list", "--required", trait, "--member-of", aggregate)] == [top]


def test_groups_are_served_by_a_tree(cli, tree):
    top, device = tree
    words = ("--group", "1", "--resource", "VCPU=2", "--group", "2", "--resource", "CUSTOM_DEVICE=1", "--group-policy", "isolate", "--limit", "5")
    rows = cli(*LATEST, "allocation", "candidate", "list", *words)
    assert {row["resource provider"] for row in rows} == {top, device}


def test_allocations_of_a_consumer_of_ones_own(cli, tree):
    top, device = tree
    consumer, project, user = str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4())
    owner = ("--project-id", project, "--user-id", user, "--consumer-type", "INSTANCE")
    cli.text(*LATEST, "resource", "provider", "allocation", "set", consumer, "--allocation", f"rp={top},VCPU=3", "--allocation", f"rp={device},CUSTOM_DEVICE=1", *owner)
    held = {row["resource_provider"]: row["resources"] for row in cli(*LATEST, "resource", "provider", "allocation", "show", consumer)}
    assert held == {top: {"VCPU": 3}, device: {"CUSTOM_DEVICE": 1}}
    used = {row["resource_class"]: row["usage"] for row in cli(*LATEST, "resource", "provider", "usage", "show", top)}
    assert used == {"VCPU": 3, "MEMORY_MB": 0}
    version = ("--os-placement-api-version", "1.37")
    assert {row["resource_class"]: row["usage"] for row in cli(*version, "resource", "usage", "show", project)} == {"VCPU": 3, "CUSTOM_DEVICE": 1}
    with pytest.raises(CommandFailed, match="capacity"):
        cli.text(*LATEST, "resource", "provider", "allocation", "set", str(uuid.uuid4()), "--allocation", f"rp={top},VCPU=6", *owner)
    cli.text(*LATEST, "resource", "provider", "allocation", "unset", consumer, "--provider", device)
    assert [row["resource_provider"] for row in cli(*LATEST, "resource", "provider", "allocation", "show", consumer)] == [top]
    with pytest.raises(CommandFailed, match="allocations"):
        cli.text(*LATEST, "resource", "provider", "delete", top)
    cli.text(*LATEST, "resource", "provider", "allocation", "delete", consumer)
    assert cli(*LATEST, "resource", "provider", "allocation", "show", consumer) == []


def test_classes_of_ones_own(cli):
    named = f"CUSTOM_{uuid.uuid4().hex.upper()}"
    cli.text(*LATEST, "resource", "class", "create", named)
    assert cli(*LATEST, "resource", "class", "show", named)["name"] == named
    with pytest.raises(CommandFailed):
        cli.text(*LATEST, "resource", "class", "create", named)
    cli.text(*LATEST, "resource", "class", "delete", named)
    with pytest.raises(CommandFailed):
        cli.text(*LATEST, "resource", "class", "show", named)
