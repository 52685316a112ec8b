"""What compute offers besides servers: flavors, keys, hosts."""
import subprocess

import openstack.exceptions
import pytest

from conftest import CommandFailed


def test_the_first_flavors_are_there(cli):
    flavors = {row["Name"]: row for row in cli("flavor", "list")}
    tiny = flavors["m1.tiny"]
    assert (tiny["VCPUs"], tiny["RAM"], tiny["Disk"], tiny["Is Public"]) == (1, 128, 1, True)
    assert "m1.small" in flavors


def test_flavor_from_making_to_deleting(cli, name):
    made = cli("flavor", "create", "--vcpus", "2", "--ram", "256", "--disk", "3", "--id", name + "-id", "--property", "hw:watchdog_action=reset", name)
    assert made["id"] == name + "-id" and made["vcpus"] == 2
    cli.text("flavor", "set", "--property", "sw:wrs:auto_recovery=false", name)
    assert cli("flavor", "show", name)["properties"] == {"hw:watchdog_action": "reset", "sw:wrs:auto_recovery": "false"}
    cli.text("flavor", "unset", "--property", "hw:watchdog_action", name)
    assert cli("flavor", "show", name)["properties"] == {"sw:wrs:auto_recovery": "false"}
    with pytest.raises(CommandFailed, match="409"):
        cli("flavor", "create", "--vcpus", "1", "--ram", "64", name)
    cli.text("flavor", "delete", name)
    with pytest.raises(CommandFailed, match="No [Ff]lavor found"):
        cli("flavor", "show", name)


def test_a_private_flavor_is_for_whom_it_is_given_to(cli, tenant, name, later):
    cli("flavor", "create", "--vcpus", "1", "--ram", "64", "--disk", "1", "--private", name)
    later(cli.text, "flavor", "delete", name)
    mine = cli.as_user(**tenant[3])
    assert name not in mine.names("flavor", "list")
    cli.text("flavor", "set", "--project", tenant[0].id, name)
    assert name in mine.names("flavor", "list")
    with pytest.raises(openstack.exceptions.ForbiddenException):
        tenant[2].compute.create_flavor(name=name + "-x", ram=64, vcpus=1, disk=1)


def test_keypairs(cli, name, tmp_path, later):
    private = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", private], check=True)
    cli("keypair", "create", "--public-key", str(private) + ".pub", name)
    later(cli.text, "keypair", "delete", name)
    shown = cli("keypair", "show", name)
    wanted = subprocess.run(["ssh-keygen", "-l", "-E", "md5", "-f", str(private) + ".pub"], check=True, capture_output=True, text=True).stdout
    assert shown["fingerprint"] == wanted.split()[1].removeprefix("MD5:")
    assert cli.text("keypair", "show", "--public-key", name).split()[:2] == private.with_suffix(".pub").read_text().split()[:2]
    assert name in cli.names("keypair", "list")
    with pytest.raises(CommandFailed, match="409"):
        cli("keypair", "create", "--public-key", str(private) + ".pub", name)
    bad = tmp_path / "bad.pub"
    bad.write_text("ssh-ed25519 AAAAnot-a-key")
    with pytest.raises(CommandFailed, match="400"):
        cli("keypair", "create", "--public-key", bad, name + "-bad")


def test_hypervisors_services_and_zones(cli, conn):
    hypervisors = cli("hypervisor", "list")
    assert [(row["Hypervisor Type"], row["State"]) for row in hypervisors] == [("QEMU", "up")]
    # by the SDK: `openstack hypervisor show` also asks for aggregates, which are not served yet
    shown = next(conn.compute.hypervisors(details=True))
    assert shown.status == "enabled" and shown.service_details["host"] == hypervisors[0]["Hypervisor Hostname"]
    services = {row["Binary"]: (row["Status"], row["State"]) for row in cli("compute", "service", "list")}
    assert services["nova-compute"] == ("enabled", "up")
    assert ("nova", "available") in [(row["Zone Name"], row["Zone Status"]) for row in cli("availability", "zone", "list", "--compute")]


def test_a_disabled_service_takes_no_servers(cli, conn, name, later):
    host = next(row["Host"] for row in cli("compute", "service", "list") if row["Binary"] == "nova-compute")
    cli.text("compute", "service", "set", "--disable", "--disable-reason", "test", host, "nova-compute")
    later(cli.text, "compute", "service", "set", "--enable", host, "nova-compute")
    server = conn.compute.create_server(
        name=name, flavor_id=conn.compute.find_flavor("m1.tiny").id, image_id=conn.image.find_image("cirros").id, networks="none"
    )
    later(conn.compute.delete_server, server)
    with pytest.raises(openstack.exceptions.ResourceFailure):
        conn.compute.wait_for_server(server, wait=60)
    assert "No valid host" in conn.compute.get_server(server).fault["message"]


def test_versions_are_announced(cli, conn):
    rows = {row["Service Type"]: row for row in cli("versions", "show", "--status", "CURRENT")}
    assert rows["compute"]["Max Microversion"] == "2.104" and rows["compute"]["Min Microversion"] == "2.1"
    assert rows["placement"]["Max Microversion"] == "1.39"
    assert rows["identity"]["Version"].startswith("3")


def test_limits_and_quotas(cli, conn, name, later):
    assert len(cli("limits", "show", "--absolute")) > 5
    assert conn.compute.get("/limits").json()["limits"]["absolute"]["maxTotalInstances"] > 0
    cli("project", "create", name)
    later(cli.text, "project", "delete", name)
    cli.text("quota", "set", "--cores", "3", "--instances", "2", name)
    quota = {row["Resource"]: row["Limit"] for row in cli("quota", "show", "--compute", name)}
    assert (quota["cores"], quota["instances"]) == (3, 2)
