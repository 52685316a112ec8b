"""Segments, hosts and notifications through Masakari's client and the SDK."""
import pytest

from conftest import CommandFailed, until


@pytest.fixture
def segment(cli, name, later):
    made = cli("segment", "create", name, "auto", "COMPUTE", "--description", "of a test")
    later(cli.text, "segment", "delete", made["uuid"])
    return made["uuid"]


def test_a_segment_with_this_host(cli, conn, name, segment):
    host = conn.compute.find_hypervisor(next(conn.compute.hypervisors()).name).name
    member = cli("segment", "host", "create", host, "COMPUTE", "SSH", segment)
    assert [row["name"] for row in cli("segment", "host", "list", segment)] == [host]
    cli("segment", "host", "update", segment, member["uuid"], "--reserved", "True")
    assert cli("segment", "host", "show", segment, member["uuid"])["reserved"] in (True, "True")
    assert cli("segment", "update", segment, "--is_enabled", "False")["is_enabled"] in (False, "False")
    with pytest.raises(CommandFailed, match="could not be found"):
        cli.text("segment", "host", "create", "nobody", "COMPUTE", "SSH", segment)
    assert name in [found.name for found in conn.instance_ha.segments()]
    cli.text("segment", "host", "delete", segment, member["uuid"])
    assert cli("segment", "host", "list", segment) == []


def test_a_notification_is_worked_on(cli, conn, segment):
    host = next(conn.compute.hypervisors()).name
    conn.instance_ha.create_host(segment, name=host, type="COMPUTE", control_attributes="SSH")
    payload = '{"event": "STARTED", "process_name": "sshd"}'
    made = cli("notification", "create", "PROCESS", host, "2026-11-20T12:00:00", payload)
    mine = lambda n: n.notification_uuid == made["notification_uuid"] and n.status == "finished"
    ended = until("it is finished", lambda: next(filter(mine, conn.instance_ha.notifications()), None))
    assert ended.type == "PROCESS" and ended.payload["process_name"] == "sshd"
    shown = cli("notification", "show", made["notification_uuid"])
    assert shown["status"] == "finished"
    assert cli("notification", "list", "--filters", "type=PROCESS")
