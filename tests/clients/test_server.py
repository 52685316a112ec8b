"""A server's life, with a real guest behind it."""
import base64
import os
import signal
import subprocess

import openstack.exceptions
import pytest

from conftest import STURNUS, CommandFailed, until


def guest_pid(server_id):
    """The process id of a server's QEMU, as `sturnus guest list` prints it; None without one."""
    for line in subprocess.run([STURNUS, "guest", "list"], check=True, capture_output=True, text=True).stdout.splitlines():
        if server_id in line:
            number = next((word for word in reversed(line.split()) if word.isdigit()), None)
            return int(number) if number else None
    return None


@pytest.fixture
def server(cli, name, later):
    """A small active server on no network, named like the test."""
    made = cli("server", "create", "--flavor", "m1.tiny", "--image", "cirros", "--nic", "none", "--wait", name)
    later(lambda: name in cli.names("server", "list") and cli.text("server", "delete", "--wait", name))
    assert made["status"] == "ACTIVE"
    return made


def test_create_show_list_and_update(cli, conn, server, name):
    shown = cli("server", "show", name)
    assert shown["OS-EXT-STS:vm_state"] == "active" and shown["OS-EXT-STS:power_state"] in (1, "Running")
    assert shown["image"].startswith("cirros") and "m1.tiny" in str(shown["flavor"])
    assert [(row["Name"], row["Status"]) for row in cli("server", "list", "--name", name)] == [(name, "ACTIVE")]
    cli.text("server", "set", "--name", name + "-b", "--property", "colour=blue", name)
    assert cli("server", "show", name + "-b")["properties"] == {"colour": "blue"}
    cli.text("server", "unset", "--property", "colour", name + "-b")
    cli.text("server", "set", "--name", name, server["id"])
    assert conn.compute.get_server(server["id"]).metadata == {}
    assert guest_pid(server["id"])


def test_stop_start_reboot_and_what_happened(cli, server, name):
    first = guest_pid(server["id"])
    cli.text("server", "stop", name)
    until("stopped", lambda: cli("server", "show", name)["status"] == "SHUTOFF")
    assert guest_pid(server["id"]) is None
    with pytest.raises(CommandFailed, match="409"):
        cli.text("server", "stop", name)
    cli.text("server", "start", name)
    until("started", lambda: cli("server", "show", name)["status"] == "ACTIVE")
    assert guest_pid(server["id"]) not in (None, first)
    cli.text("server", "reboot", "--hard", "--wait", name)
    actions = [row["Action"] for row in cli("server", "event", "list", name)]
    assert sorted(actions) == ["create", "reboot", "start", "stop"] and actions[-1] == "create"
    request = next(row["Request ID"] for row in cli("server", "event", "list", name) if row["Action"] == "create")
    assert cli("server", "event", "show", name, request)["action"] == "create"


def test_console_log_shows_the_boot(cli, server, name):
    until("boot on the console", lambda: "guest:" in cli.text("console", "log", "show", name), 90)
    assert len(cli.text("console", "log", "show", "--lines", "2", name).strip().splitlines()) <= 2


def test_a_killed_guest_comes_back(cli, server, name):
    first = guest_pid(server["id"])
    os.kill(first, signal.SIGKILL)
    until("another process", lambda: guest_pid(server["id"]) not in (None, first), 10)
    assert cli("server", "show", name)["status"] == "ACTIVE"
    fm = STURNUS.with_name("fm")
    events = subprocess.run([fm, "event-list", "--alarms", "--nopaging", "--nowrap"], check=True, capture_output=True, text=True,
                            env={**os.environ, **credentials(cli)}).stdout
    states = [line.split("|")[2].strip() for line in events.splitlines() if server["id"] in line]
    assert {"set", "clear"} <= set(states)


def credentials(cli):
    """What `fm` reads from the environment, out of the cloud's openrc."""
    home = os.environ["STURNUS_HOME"]
    text = subprocess.run(["bash", "-c", f". '{home}/openrc'; env"], check=True, capture_output=True, text=True).stdout
    return {key: value for key, _, value in (line.partition("=") for line in text.splitlines()) if key.startswith("OS_")}


def test_network_user_data_and_config_drive(cli, conn, name, later, tmp_path):
    script = tmp_path / "user-data"
    script.write_text("#!/bin/sh\necho user-data-was-here\n")
    made = cli("server", "create", "--flavor", "m1.tiny", "--image", "cirros", "--network", "private", "--user-data", script,
               "--config-drive", "True", "--property", "role=test", "--wait", name)
    later(cli.text, "server", "delete", "--wait", name)
    assert list(made["addresses"]) == ["private"]
    port = cli("port", "list", "--server", name)[0]
    assert cli("port", "show", port["ID"])["device_owner"].startswith("compute:")
    until("user data ran", lambda: "user-data-was-here" in cli.text("console", "log", "show", name), 120)
    until("port is up", lambda: cli("port", "show", port["ID"])["status"] == "ACTIVE")
    assert base64.b64decode(conn.compute.get_server(made["id"]).user_data).decode() == script.read_text()


def test_a_server_gets_the_port_it_is_given(cli, name, later):
    port = cli("port", "create", "--network", "private", name)
    later(cli.text, "port", "delete", name)
    made = cli("server", "create", "--flavor", "m1.tiny", "--image", "cirros", "--port", name, "--wait", name)
    assert made["addresses"]["private"] == [port["fixed_ips"][0]["ip_address"]]
    cli.text("server", "delete", "--wait", name)
    assert cli("port", "show", name)["device_id"] == ""  # ours, so it stays


def test_deleting_leaves_nothing(cli, conn, name):
    made = cli("server", "create", "--flavor", "m1.tiny", "--image", "cirros", "--network", "private", "--wait", name)
    pid = guest_pid(made["id"])
    cli.text("server", "delete", "--wait", name)
    assert not os.path.exists(f"/proc/{pid}")
    assert [port for port in conn.network.ports(device_id=made["id"])] == []
    with pytest.raises(openstack.exceptions.NotFoundException):
        conn.compute.get_server(made["id"])


def test_bad_requests_are_told(cli, conn, name):
    with pytest.raises(openstack.exceptions.BadRequestException):
        conn.compute.create_server(name=name, flavor_id="no-such", image_id=conn.image.find_image("cirros").id, networks="none")
    with pytest.raises(openstack.exceptions.BadRequestException):
        conn.compute.create_server(name=name, flavor_id=conn.compute.find_flavor("m1.tiny").id, networks="none",
                                   image_id="00000000-0000-0000-0000-000000000000")
    assert conn.compute.post("/servers", json={"server": {"name": name, "flavorRef": "1", "imageRef": "", "surprise": 1}}).status_code == 400
    assert name not in cli.names("server", "list")


def test_servers_of_other_projects_are_not_there(cli, server, tenant):
    with pytest.raises(openstack.exceptions.NotFoundException):
        tenant[2].compute.get_server(server["id"])
    assert list(tenant[2].compute.servers()) == []
    with pytest.raises(openstack.exceptions.ForbiddenException):
        list(tenant[2].compute.servers(all_projects=True))


def test_quota_holds(cli, tenant, conn, name):
    cli.text("quota", "set", "--instances", "0", tenant[0].id)
    with pytest.raises(openstack.exceptions.ForbiddenException, match="[Qq]uota"):
        tenant[2].compute.create_server(name=name, flavor_id=conn.compute.find_flavor("m1.tiny").id,
                                        image_id=conn.image.find_image("cirros").id, networks="none")
