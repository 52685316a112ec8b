import pytest

from conftest import CommandFailed, until


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


def test_traits_and_classes_are_listed(cli):
    version = ("--os-placement-api-version", "1.6")
    assert "HW_CPU_X86_AVX2" in [row["name"] for row in cli(*version, "trait", "list")]
    assert {"VCPU", "MEMORY_MB", "PCPU"} <= set(row["name"] for row in cli(*version, "resource", "class", "list"))
