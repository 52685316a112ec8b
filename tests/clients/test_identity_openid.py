"""Users of a real OpenID provider (npm oidc-provider, openid_provider.mjs), by keystoneauth's plugins and the `openstack` command."""
import os
import pathlib
import uuid

import pytest
import requests
from keystoneauth1 import exceptions, session
from keystoneauth1.identity import v3

from conftest import openid_provider

HOME = pathlib.Path(os.environ["STURNUS_HOME"])
SECRET = "a secret"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


@pytest.fixture(scope="module")
def issuer():
    """A provider that runs; where it is."""
    with openid_provider() as url:
        yield url


class Federation:
    """A cloud that believes the provider: its group has the role `member` on a project."""

    def __init__(self, conn, issuer):
        self.issuer, self.auth_url = issuer, conn.auth["auth_url"]
        self.name = f"idp-{uuid.uuid4().hex[:8]}"
        self.project = conn.identity.create_project(name=self.name, domain_id="default")
        self.group = conn.identity.create_group(name=self.name, domain_id="default")
        member = conn.identity.find_role("member")
        conn.identity.put(f"/projects/{self.project.id}/groups/{self.group.id}/roles/{member.id}")
        rules = [{
            "local": [{"user": {"name": "{0}", "email": "{0}@example.org"}, "group": {"id": self.group.id}}],
            "remote": [{"type": "HTTP_OIDC_SUB"}],
        }]
        self.put(conn, f"identity_providers/{self.name}", identity_provider={"enabled": True, "remote_ids": [issuer]})
        self.put(conn, f"mappings/{self.name}", mapping={"rules": rules})
        self.put(conn, f"identity_providers/{self.name}/protocols/openid", protocol={"mapping_id": self.name})

    def put(self, conn, path, **body):
        made = conn.identity.put(f"/OS-FEDERATION/{path}", json=body)
        assert made.status_code == 201, made.text

    def drop(self, conn):
        for path in (f"identity_providers/{self.name}", f"mappings/{self.name}"):
            assert conn.identity.delete(f"/OS-FEDERATION/{path}").status_code == 204
        conn.identity.delete_group(self.group)
        conn.identity.delete_project(self.project)

    def common(self):
        return {
            "auth_url": self.auth_url, "identity_provider": self.name, "protocol": "openid", "client_id": "sturnus", "client_secret": SECRET,
            "discovery_endpoint": f"{self.issuer}/.well-known/openid-configuration",
        }

    def access_token(self, scope, user="bob"):
        """By the password grant, without any client of OpenStack."""
        form = {"grant_type": "password", "username": user, "password": f"the password of {user}", "scope": scope}
        answer = requests.post(f"{self.issuer}/token", data=form, auth=("sturnus", SECRET), timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]

    def enter(self, plugin, user):
        """The user comes in by the plugin, to the project; the token is that user's."""
        entered = session.Session(auth=plugin)
        access = plugin.get_access(entered)
        assert access.username == user and access.project_id == self.project.id
        assert "member" in access.role_names
        seen = entered.get(f"{self.auth_url}/auth/projects", headers={"Accept": "application/json"}).json()["projects"]
        assert [project["id"] for project in seen] == [self.project.id]
        return access


@pytest.fixture(scope="module")
def federation(conn, issuer):
    made = Federation(conn, issuer)
    settings = HOME / "federation.toml"
    before = settings.read_text() if settings.exists() else None
    settings.write_text(
        f'[[oidc]]\nidentity_provider = "{made.name}"\nprotocol = "openid"\nissuer = "{issuer}"\nclient_id = "sturnus"\nclient_secret = "{SECRET}"\n'
    )
    try:
        yield made
    finally:
        made.drop(conn)
        settings.unlink() if before is None else settings.write_text(before)


# Tokens that can be verified here, and such that only the provider can read.
@pytest.mark.parametrize("scope", ["openid jwt", "openid"])
def test_password(federation, scope):
    plugin = v3.OidcPassword(
        **federation.common(), username="bob", password="the password of bob", scope=scope, project_id=federation.project.id)
    federation.enter(plugin, "bob")


def test_wrong_password(federation):
    plugin = v3.OidcPassword(**federation.common(), username="bob", password="wrong", scope="openid", project_id=federation.project.id)
    with pytest.raises(exceptions.ClientException):
        plugin.get_token(session.Session())


@pytest.mark.parametrize("scope", ["jwt", ""])
def test_client_credentials(federation, scope):
    plugin = v3.OidcClientCredentials(**federation.common(), scope=scope, project_id=federation.project.id)
    federation.enter(plugin, "sturnus")


@pytest.mark.parametrize("scope", ["openid jwt", "openid"])
def test_access_token(federation, scope):
    plugin = v3.OidcAccessToken(
        auth_url=federation.auth_url, identity_provider=federation.name, protocol="openid", access_token=federation.access_token(scope),
        project_id=federation.project.id)
    federation.enter(plugin, "bob")


def test_authorization_code(federation):
    """A browser, played: it follows the provider to the address that takes the code."""
    browser = requests.Session()
    form = {"response_type": "code", "client_id": "sturnus", "redirect_uri": "http://127.0.0.1:8080/auth", "scope": "openid email"}
    answer = browser.get(f"{federation.issuer}/auth", params=form, allow_redirects=False, timeout=10)
    while answer.is_redirect and "code=" not in answer.headers["location"]:
        answer = browser.get(requests.compat.urljoin(answer.url, answer.headers["location"]), allow_redirects=False, timeout=10)
    code = answer.headers["location"].split("code=")[1].split("&")[0]
    plugin = v3.OidcAuthorizationCode(
        **federation.common(), redirect_uri="http://127.0.0.1:8080/auth", code=code, scope="openid email", project_id=federation.project.id)
    federation.enter(plugin, "carol")


def test_token_exchange(federation):
    """RFC 8693: a token of the provider for another one, which comes in."""
    form = {
        "grant_type": EXCHANGE, "subject_token": federation.access_token("openid", "dave"), "scope": "openid jwt",
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
    }
    answer = requests.post(f"{federation.issuer}/token", data=form, auth=("sturnus", SECRET), timeout=10)
    assert answer.status_code == 200, answer.text
    plugin = v3.OidcAccessToken(
        auth_url=federation.auth_url, identity_provider=federation.name, protocol="openid", access_token=answer.json()["access_token"],
        project_id=federation.project.id)
    federation.enter(plugin, "dave")


def test_command(federation, cli):
    environment = {
        "OS_CLOUD": "", "OS_AUTH_TYPE": "v3oidcaccesstoken", "OS_AUTH_URL": federation.auth_url, "OS_IDENTITY_PROVIDER": federation.name,
        "OS_PROTOCOL": "openid", "OS_ACCESS_TOKEN": federation.access_token("openid jwt"), "OS_PROJECT_ID": federation.project.id,
    }
    issued = cli.as_user(**environment)("token", "issue")
    assert issued["project_id"] == federation.project.id
    shown = cli("user", "show", issued["user_id"])
    assert shown["name"] == "bob" and shown["email"] == "bob@example.org"


def test_revoked(federation):
    """What the provider takes back opens nothing more, if it is asked."""
    token = federation.access_token("openid")
    answer = requests.post(f"{federation.issuer}/token/revocation", data={"token": token}, auth=("sturnus", SECRET), timeout=10)
    assert answer.status_code == 200, answer.text
    plugin = v3.OidcAccessToken(
        auth_url=federation.auth_url, identity_provider=federation.name, protocol="openid", access_token=token, project_id=federation.project.id)
    with pytest.raises(exceptions.Unauthorized):
        plugin.get_token(session.Session())
