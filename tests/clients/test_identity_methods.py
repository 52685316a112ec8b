"""The methods of authentication that need no other party, by keystoneauth's plugins, openstacksdk and the `openstack` command."""
import base64
import hashlib
import hmac
import os
import struct
import time
import uuid

import openstack
import pytest
from keystoneauth1 import exceptions, session
from keystoneauth1.identity import v3

from conftest import CommandFailed


class Person:
    """A new member of a project of their own."""

    def __init__(self, conn, name, later):
        self.auth_url, self.name, self.password = conn.auth["auth_url"], name, uuid.uuid4().hex
        self.project = conn.identity.create_project(name=name, domain_id="default")
        later(conn.identity.delete_project, self.project)
        self.user = conn.identity.create_user(name=name, password=self.password, domain_id="default")
        later(conn.identity.delete_user, self.user)
        conn.identity.assign_project_role_to_user(self.project, self.user, conn.identity.find_role("member"))

    def plugin(self, **scope):
        return v3.Password(self.auth_url, username=self.name, password=self.password, user_domain_id="default", **scope)

    def ask(self, method, path, body=None):
        """A request of theirs, for their project; its status."""
        asked = session.Session(auth=self.plugin(project_id=self.project.id))
        return asked.request(self.auth_url + path, method, json=body, raise_exc=False).status_code

    def totp(self, conn):
        """The secret of one-time passwords, which they have from then on."""
        secret = os.urandom(20)
        blob = base64.b32encode(secret).decode().rstrip("=")
        conn.identity.create_credential(user_id=self.user.id, type="totp", blob=blob)
        return secret


def code(secret):
    """That of now (RFC 6238), with some seconds left."""
    if time.time() % 30 > 25:
        time.sleep(30 - time.time() % 30)
    digest = hmac.new(secret, struct.pack(">Q", int(time.time()) // 30), hashlib.sha1).digest()
    at = digest[-1] & 15
    return f"{(struct.unpack('>I', digest[at:at + 4])[0] & 0x7FFFFFFF) % 1_000_000:06}"


def entered(plugin):
    """Who comes in by the plugin; the API takes the token."""
    asked = session.Session(auth=plugin)
    access = plugin.get_access(asked)
    assert asked.get(f"{plugin.auth_url}/users/{access.user_id}", headers={"Accept": "application/json"}).status_code == 200
    return access


@pytest.fixture
def person(conn, name, later):
    return Person(conn, name, later)


def environment(person, kind, **words):
    """For the `openstack` command: a login of this kind, and nothing that comes from elsewhere."""
    return {"OS_CLOUD": "", "OS_CLIENT_CONFIG_FILE": "/dev/null", "OS_IDENTITY_API_VERSION": "3", "OS_AUTH_TYPE": kind, "OS_AUTH_URL": person.auth_url,
            **{f"OS_{word.upper()}": value for word, value in words.items()}}


def test_password_for_each_scope(conn, person):
    reader = conn.identity.find_role("reader")
    conn.identity.assign_domain_role_to_user("default", person.user, reader)
    conn.identity.put(f"/system/users/{person.user.id}/roles/{reader.id}")
    access = entered(person.plugin(project_name=person.name, project_domain_name="Default"))
    assert access.project_id == person.project.id and "member" in access.role_names
    access = entered(person.plugin(domain_id="default"))
    assert access.domain_id == "default" and access.role_names == ["reader"] and access.project_id is None
    access = entered(person.plugin(system_scope="all"))
    assert access.system_scoped and access.role_names == ["reader"]
    access = entered(person.plugin(unscoped=True))
    assert not access.scoped and access.user_id == person.user.id
    with pytest.raises(exceptions.Unauthorized):
        entered(v3.Password(person.auth_url, username=person.name, password="wrong", user_domain_id="default"))


def test_token(person, cli):
    unscoped = person.plugin(unscoped=True).get_token(session.Session())
    access = entered(v3.Token(person.auth_url, token=unscoped, project_id=person.project.id))
    assert access.project_id == person.project.id and set(access._data["token"]["methods"]) == {"password", "token"}
    issued = cli.as_user(**environment(person, "v3token", token=unscoped, project_id=person.project.id))("token", "issue")
    assert issued["project_id"] == person.project.id
    with pytest.raises(exceptions.NotFound):
        entered(v3.Token(person.auth_url, token="nonsense", project_id=person.project.id))


def test_application_credential(person, cli):
    theirs = openstack.connection.Connection(session=session.Session(auth=person.plugin(project_id=person.project.id)), region_name="RegionOne")
    made = theirs.identity.create_application_credential(person.user, name="robot")
    by_id = v3.ApplicationCredential(person.auth_url, application_credential_id=made.id, application_credential_secret=made.secret)
    access = entered(by_id)
    assert (access.user_id, access.project_id) == (person.user.id, person.project.id)
    by_name = {"application_credential_name": "robot", "application_credential_secret": made.secret}
    entered(v3.ApplicationCredential(person.auth_url, username=person.name, user_domain_id="default", **by_name))
    words = {"application_credential_id": made.id, "application_credential_secret": made.secret}
    robot = cli.as_user(**environment(person, "v3applicationcredential", **words))
    assert robot("token", "issue")["project_id"] == person.project.id
    assert robot("application", "credential", "list")[0]["Name"] == "robot"
    with pytest.raises(CommandFailed):
        robot("application", "credential", "create", "another")
    theirs.identity.delete_application_credential(person.user, made)
    with pytest.raises(exceptions.Unauthorized):
        entered(v3.ApplicationCredential(person.auth_url, **words))


def test_trust(conn, person, cli, name, later):
    trustee = Person(conn, f"{name}-trustee", later)
    lent = cli.as_user(**environment(person, "v3password", username=person.name, password=person.password, user_domain_id="default",
                                     project_id=person.project.id))
    member = conn.identity.find_role("member").id
    trust = lent("trust", "create", "--project", person.project.id, "--role", member, "--impersonate", person.user.id, trustee.user.id)
    access = entered(trustee.plugin(trust_id=trust["id"]))
    assert access.trust_scoped and access.user_id == person.user.id and access.project_id == person.project.id
    words = {"username": trustee.name, "password": trustee.password, "user_domain_id": "default", "trust_id": trust["id"]}
    assert cli.as_user(**environment(trustee, "v3password", **words))("token", "issue")["user_id"] == person.user.id
    lent.text("trust", "delete", trust["id"])
    with pytest.raises(exceptions.ClientException):
        entered(trustee.plugin(trust_id=trust["id"]))


def test_one_time_password(conn, person):
    secret = person.totp(conn)

    def plugin(passcode):
        return v3.TOTP(person.auth_url, username=person.name, user_domain_id="default", passcode=passcode, project_id=person.project.id)

    right = code(secret)
    access = entered(plugin(right))
    assert access.user_id == person.user.id and access._data["token"]["methods"] == ["totp"]
    # Whoever looked over the shoulder comes too late.
    with pytest.raises(exceptions.Unauthorized):
        entered(plugin(right))


def test_several_methods(conn, person, cli):
    """`v3multifactor` with both at once, and one after the other with a receipt."""
    secret = person.totp(conn)
    options = {"multi_factor_auth_enabled": True, "multi_factor_auth_rules": [["password", "totp"]]}
    assert conn.identity.patch(f"/users/{person.user.id}", json={"user": {"options": options}}).status_code == 200
    who = {"username": person.name, "user_domain_id": "default"}
    plugin = v3.MultiFactor(person.auth_url, auth_methods=["v3password", "v3totp"], password=person.password, passcode=code(secret),
                            project_id=person.project.id, **who)
    assert set(entered(plugin)._data["token"]["methods"]) == {"password", "totp"}
    with pytest.raises(exceptions.MissingAuthMethods) as missing:
        person.plugin(project_id=person.project.id).get_access(session.Session())
    assert missing.value.required_auth_methods == [["password", "totp"]] and missing.value.methods == ["password"]
    # The next code, for each counts once.
    time.sleep(30.5 - time.time() % 30)
    rest = v3.TOTP(person.auth_url, passcode=code(secret), project_id=person.project.id, **who)
    rest.add_method(v3.ReceiptMethod(receipt=missing.value.receipt))
    assert set(entered(rest)._data["token"]["methods"]) == {"password", "totp"}
    words = {**who, "password": person.password, "passcode": "000000", "project_id": person.project.id, "auth_methods": "v3password,v3totp"}
    with pytest.raises(CommandFailed):
        cli.as_user(**environment(person, "v3multifactor", **words))("token", "issue")


def test_own_password(conn, person, cli):
    """Its user changes it, and everything that came by the old one is void."""
    token = person.plugin(project_id=person.project.id).get_token(session.Session())
    words = {"username": person.name, "password": person.password, "user_domain_id": "default", "project_id": person.project.id}
    new = uuid.uuid4().hex
    cli.as_user(**environment(person, "v3password", **words)).text(
        "user", "password", "set", "--original-password", person.password, "--password", new)
    with pytest.raises(exceptions.NotFound):
        conn.session.get(f"{person.auth_url}/auth/tokens", headers={"X-Subject-Token": token})
    person.password = new
    assert person.ask("GET", "/auth/projects") == 200
