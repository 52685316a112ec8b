import os

import openstack.exceptions
import pytest
import requests

from conftest import CommandFailed


def test_token_issue_names_who_and_where(cli, conn):
    token = cli("token", "issue")
    assert token["id"].startswith("gAAAA")
    assert token["project_id"] == conn.current_project_id
    assert token["user_id"] == conn.current_user_id
    assert len(token["project_id"]) == 32


def test_catalogue_has_every_service(cli):
    catalogue = {row["Type"]: row["Endpoints"] for row in cli("catalog", "list")}
    assert {"identity", "image", "placement", "compute", "network"} <= set(catalogue)
    for endpoints in catalogue.values():
        assert {"public", "internal", "admin"} <= {e["interface"] for e in endpoints}
    assert cli("catalog", "show", "compute")["type"] == "compute"


def test_services_and_endpoints(cli, name, later):
    cli("service", "create", "--name", name, "--description", "made by a test", "example")
    later(cli.text, "service", "delete", name)
    endpoint = cli("endpoint", "create", "--region", "RegionOne", name, "public", "http://127.0.0.1:1/example")
    assert endpoint["url"] == "http://127.0.0.1:1/example"
    assert [row["ID"] for row in cli("endpoint", "list", "--service", name)] == [endpoint["id"]]
    cli.text("endpoint", "set", "--url", "http://127.0.0.1:2/example", endpoint["id"])
    assert cli("endpoint", "show", endpoint["id"])["url"] == "http://127.0.0.1:2/example"
    cli.text("endpoint", "delete", endpoint["id"])
    assert cli("endpoint", "list", "--service", name) == []


def test_regions(cli, name, later):
    cli("region", "create", "--description", "first", name)
    later(cli.text, "region", "delete", name)
    cli.text("region", "set", "--description", "second", name)
    assert cli("region", "show", name)["description"] == "second"
    assert "RegionOne" in [row["Region"] for row in cli("region", "list")]


def test_domain_from_making_to_deleting(cli, name):
    domain = cli("domain", "create", "--description", "a test's", name)
    assert domain["enabled"] is True
    with pytest.raises(CommandFailed):
        cli.text("domain", "delete", name)  # refused while it is enabled
    cli.text("domain", "set", "--disable", name)
    assert cli("domain", "show", name)["enabled"] is False
    cli.text("domain", "delete", name)
    assert name not in cli.names("domain", "list")


def test_project_from_making_to_deleting(cli, name):
    made = cli("project", "create", "--domain", "default", "--description", "first", "--tag", "a", "--tag", "b", name)
    assert made["name"] == name and sorted(made["tags"]) == ["a", "b"]
    cli.text("project", "set", "--description", "second", "--remove-tag", "a", name)
    shown = cli("project", "show", name)
    assert (shown["description"], shown["tags"]) == ("second", ["b"])
    assert name in cli.names("project", "list", "--tags", "b")
    with pytest.raises(CommandFailed, match="409"):
        cli("project", "create", "--domain", "default", name)
    cli.text("project", "delete", name)
    with pytest.raises(CommandFailed, match="(?i)no project"):
        cli("project", "show", name)


def test_user_can_log_in_and_change_the_password(cli, conn, tenant, name):
    project, user, theirs, environment = tenant
    mine = cli.as_user(**environment)
    assert mine("token", "issue")["user_id"] == user.id
    mine.text("user", "password", "set", "--original-password", environment["OS_PASSWORD"], "--password", "another-secret-7")
    with pytest.raises(CommandFailed, match="401"):
        mine("token", "issue")
    assert mine.as_user(OS_PASSWORD="another-secret-7")("token", "issue")["project_id"] == project.id
    cli.text("user", "set", "--disable", user.id)
    with pytest.raises(CommandFailed, match="401"):
        mine.as_user(OS_PASSWORD="another-secret-7")("token", "issue")


def test_members_do_not_administer(cli, tenant, name):
    mine = cli.as_user(**tenant[3])
    with pytest.raises(CommandFailed, match="403"):
        mine("user", "create", name + "-x")
    with pytest.raises(openstack.exceptions.ForbiddenException):
        tenant[2].identity.create_project(name=name + "-x")


def test_roles_and_assignments(cli, name, later):
    cli("role", "create", name)
    later(cli.text, "role", "delete", name)
    cli("project", "create", name)
    later(cli.text, "project", "delete", name)
    cli("user", "create", "--password", "a-secret-91", name)
    later(cli.text, "user", "delete", name)
    cli.text("role", "add", "--project", name, "--user", name, name)
    assigned = cli("role", "assignment", "list", "--user", name, "--project", name, "--names")
    assert [(row["Role"], row["User"], row["Project"]) for row in assigned] == [(name, f"{name}@Default", f"{name}@Default")]
    cli.text("role", "remove", "--project", name, "--user", name, name)
    assert cli("role", "assignment", "list", "--user", name) == []
    assert {"admin", "manager", "member", "reader"} <= set(cli.names("role", "list"))


def test_groups_carry_roles_to_their_users(cli, conn, name, later):
    cli("group", "create", name)
    later(cli.text, "group", "delete", name)
    cli("project", "create", name)
    later(cli.text, "project", "delete", name)
    cli("user", "create", "--password", "a-secret-92", name)
    later(cli.text, "user", "delete", name)
    cli.text("group", "add", "user", name, name)
    assert "in group" in cli.text("group", "contains", "user", name, name)
    cli.text("role", "add", "--project", name, "--group", name, "reader")
    effective = cli("role", "assignment", "list", "--user", name, "--effective", "--names")
    assert ("reader", f"{name}@Default") in [(row["Role"], row["Project"]) for row in effective]


def test_wrong_password_is_401_and_says_nothing_more(conn):
    auth = {**conn.auth, "password": "wrong"}
    with pytest.raises(openstack.exceptions.SDKException, match="401") as refused:
        openstack.connect(auth=auth, region_name="RegionOne").authorize()
    assert os.environ.get("OS_PASSWORD", "\0") not in str(refused.value)


def test_a_revoked_token_is_refused(cli, conn):
    token = cli("token", "issue")["id"]
    users = conn.auth["auth_url"] + "/users"
    assert requests.get(users, headers={"X-Auth-Token": token}, timeout=30).status_code == 200
    cli.text("token", "revoke", token)
    assert requests.get(users, headers={"X-Auth-Token": token}, timeout=30).status_code == 401
