"""Federation that a cloud must be configured for: a second cloud, with a controller alone, sends a user to the one under test (Keystone to
Keystone, by keystoneauth), and lets a browser in that a real OpenID provider vouches for (web single sign-on)."""
import contextlib
import html.parser
import json
import os
import pathlib
import subprocess
import time
import uuid

import openstack
import pytest
import requests
from keystoneauth1 import exceptions, session
from keystoneauth1.identity import v3

from conftest import STURNUS, TOP, free_port, openid_provider

HOME = pathlib.Path(os.environ["STURNUS_HOME"])
DASHBOARD = "http://dashboard.example/auth/websso/"


class Alpha:
    """The cloud where the users are."""

    def __init__(self, home):
        self.home, self.port = home, free_port()
        self.auth_url = f"http://127.0.0.1:{self.port}/identity/v3"
        self.entity = f"{self.auth_url}/OS-FEDERATION/saml2/idp"
        self.certificate = home / "saml.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=alpha", "-newkey", "rsa:2048", "-keyout", home / "saml.key",
             "-out", self.certificate], check=True, capture_output=True)
        settings = {
            "HOME": home, "ROLE": "controller", "LISTEN": f"127.0.0.1:{self.port}", "SAML_IDP_ENTITY_ID": self.entity,
            "SAML_IDP_SSO_ENDPOINT": f"{self.auth_url}/sso", "SAML_CERTFILE": self.certificate, "SAML_KEYFILE": home / "saml.key",
            "FEDERATION_TRUSTED_DASHBOARD": DASHBOARD,
        }
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("STURNUS_", "OS_"))}
        environment |= {f"STURNUS_{name}": str(value) for name, value in settings.items()}
        self.log = open(home / "output", "w+")
        self.process = subprocess.Popen([STURNUS, "up"], env=environment, stdout=self.log, stderr=self.log)

    def wait(self):
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if (self.home / "clouds.yaml").exists() and requests.get(self.auth_url, timeout=5).ok:
                    return
            assert self.process.poll() is None and time.monotonic() < deadline, (self.home / "output").read_text()[-2000:]
            time.sleep(0.1)

    def administrator(self):
        config = openstack.config.OpenStackConfig(config_files=[str(self.home / "clouds.yaml")], load_envvars=False)
        return config.get_one("sturnus").config["auth"]


@pytest.fixture(scope="module")
def alpha(tmp_path_factory):
    cloud = Alpha(tmp_path_factory.mktemp("alpha"))
    try:
        cloud.wait()
        yield cloud
    finally:
        cloud.process.terminate()
        cloud.process.wait(60)
        cloud.log.close()


@pytest.fixture(scope="module")
def beta(conn, alpha):
    """The cloud under test believes `alpha`; gives the project that its administrator has a role on, and the address for assertions."""
    name = f"idp-{uuid.uuid4().hex[:8]}"
    project = conn.identity.create_project(name=name, domain_id="default")
    group = conn.identity.create_group(name=name, domain_id="default")
    member = conn.identity.find_role("member")
    conn.identity.put(f"/projects/{project.id}/groups/{group.id}/roles/{member.id}")
    rules = [{
        "local": [{"user": {"name": "{0}"}, "group": {"id": group.id}}],
        "remote": [{"type": "openstack_user"}, {"type": "openstack_roles", "any_one_of": ["admin"]}],
    }]
    for path, body in [
        (f"identity_providers/{name}", {"identity_provider": {"enabled": True, "remote_ids": [alpha.entity]}}),
        (f"mappings/{name}", {"mapping": {"rules": rules}}),
        (f"identity_providers/{name}/protocols/saml2", {"protocol": {"mapping_id": name}}),
    ]:
        made = conn.identity.put(f"/OS-FEDERATION/{path}", json=body)
        assert made.status_code == 201, made.text
    settings = HOME / "federation.toml"
    before = settings.read_text() if settings.exists() else None
    settings.write_text(
        f'[[saml]]\nidentity_provider = "{name}"\nprotocol = "saml2"\nentity_id = "{alpha.entity}"\n'
        f'certificate = "{alpha.certificate}"\nkeystone = true\n'
    )
    try:
        yield project, f"{conn.auth['auth_url']}/OS-FEDERATION/identity_providers/{name}/protocols/saml2/auth"
    finally:
        settings.unlink() if before is None else settings.write_text(before)
        for path in (f"identity_providers/{name}", f"mappings/{name}"):
            assert conn.identity.delete(f"/OS-FEDERATION/{path}").status_code == 204
        conn.identity.delete_group(group)
        conn.identity.delete_project(project)


def test_a_user_goes_from_cloud_to_cloud(alpha, beta):
    project, address = beta
    local = v3.Password(**alpha.administrator())
    there = session.Session(auth=local)
    provider = {"service_provider": {"enabled": True, "auth_url": address, "sp_url": address}}
    url = f"{alpha.auth_url}/OS-FEDERATION/service_providers/beta"
    assert there.put(url, json=provider).status_code == 201
    local.invalidate()  # the next token names the service provider

    plugin = v3.Keystone2Keystone(local, "beta", project_id=project.id)
    access = plugin.get_access(session.Session(auth=plugin))
    assert access.username == "admin" and access.project_id == project.id
    assert "member" in access.role_names

    # Nobody is let in who is not to be.
    there.patch(url, json={"service_provider": {"enabled": False}})
    again = v3.Keystone2Keystone(local, "beta", project_id=project.id)
    with pytest.raises(exceptions.AuthorizationFailure):
        again.get_access(session.Session(auth=again))
    assert there.get(f"{alpha.auth_url}/OS-FEDERATION/saml2/metadata").text.startswith("<?xml")


def keystone(**asked):
    """See keystone_saml.py."""
    script = [TOP / "target" / "keystone" / "bin" / "python", pathlib.Path(__file__).with_name("keystone_saml.py")]
    done = subprocess.run(script, input=json.dumps(asked), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_keystones_library_believes_an_assertion(alpha):
    local = session.Session(auth=v3.Password(**alpha.administrator()))
    consumer = "https://beta.example/Shibboleth.sso/SAML2/POST"
    url = f"{alpha.auth_url}/OS-FEDERATION/service_providers/shibboleth"
    provider = {"enabled": True, "auth_url": "https://beta.example/v3", "sp_url": consumer}
    assert local.put(url, json={"service_provider": provider}).status_code == 201
    auth = {"identity": {"methods": ["token"], "token": {"id": local.get_token()}}, "scope": {"service_provider": {"id": "shibboleth"}}}
    made = local.post(f"{alpha.auth_url}/auth/OS-FEDERATION/saml2", json={"auth": auth})
    assert made.headers["X-sp-url"] == consumer
    metadata = local.get(f"{alpha.auth_url}/OS-FEDERATION/saml2/metadata").text
    said = keystone(metadata=metadata, response=made.text, consumer=consumer)
    assert said["issuer"] == alpha.entity and said["name"] == "admin"
    assert said["attributes"]["openstack_project_domain"] == ["Default"] and "admin" in said["attributes"]["openstack_roles"]
    forged = made.text.replace(">admin<", ">root<")
    assert forged != made.text
    assert keystone(metadata=metadata, response=forged, consumer=consumer) == {"refused": "SignatureError"}
    local.delete(url)


def test_a_user_of_a_real_keystone_comes_in(alpha, beta):
    """It signs with SHA-1 and nothing else, which is believed only of those of whom it is wanted."""
    project, address = beta
    said = {
        "issuer": alpha.entity, "recipient": address, "user": "admin", "user_domain_name": "Default", "roles": ["reader", "admin"],
        "project": "admin", "project_domain_name": "Default", "groups": ['JSON:{"name": "g", "domain": {"name": "Default"}}'],
    }

    def enter():
        document = keystone(make=said, certificate=str(alpha.certificate), key=str(alpha.home / "saml.key"))
        return requests.post(address, data=document, headers={"Content-Type": "application/vnd.paos+xml"}, timeout=10)

    settings = HOME / "federation.toml"
    before = settings.read_text()
    assert enter().status_code == 401
    settings.write_text(before + "sha1 = true\n")
    try:
        entered = enter()
    finally:
        settings.write_text(before)
    assert entered.status_code == 201 and entered.json()["token"]["user"]["name"] == "admin", entered.text


class Form(html.parser.HTMLParser):
    """The form of a page: where it goes, and what it takes along."""

    def __init__(self, text):
        super().__init__()
        self.action, self.fields = None, {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "form":
            assert self.action is None and attributes["method"] == "post"
            self.action = attributes["action"]
        if tag == "input":
            self.fields[attributes["name"]] = attributes["value"]


@pytest.mark.parametrize("path", ["identity_providers/acme/protocols/openid/websso", "websso/openid"])
def test_a_browser_logs_in(alpha, path):
    root = session.Session(auth=v3.Password(**alpha.administrator()))
    back = f"{alpha.auth_url}/auth/OS-FEDERATION/identity_providers/acme/protocols/openid/websso"
    with openid_provider(back) as issuer, contextlib.ExitStack() as later:
        rules = [{"local": [{"user": {"name": "{0}", "email": "{1}"}}], "remote": [{"type": "OIDC-sub"}, {"type": "OIDC-email"}]}]
        for what, body in [
            ("identity_providers/acme", {"identity_provider": {"enabled": True, "remote_ids": [issuer]}}),
            ("mappings/acme", {"mapping": {"rules": rules}}),
            ("identity_providers/acme/protocols/openid", {"protocol": {"mapping_id": "acme"}}),
        ]:
            url = f"{alpha.auth_url}/OS-FEDERATION/{what}"
            assert root.put(url, json=body).status_code == 201
            later.callback(root.delete, url)
        (alpha.home / "federation.toml").write_text(
            f'[[oidc]]\nidentity_provider = "acme"\nprotocol = "openid"\nissuer = "{issuer}"\nclient_id = "sturnus"\nclient_secret = "a secret"\n'
            'scope = "openid email"\n'
        )
        browser = requests.Session()
        page = browser.get(f"{alpha.auth_url}/auth/OS-FEDERATION/{path}", params={"origin": DASHBOARD}, timeout=10)
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html"), page.text
        form = Form(page.text)
        assert form.action == DASHBOARD and list(form.fields) == ["token"]
        token = form.fields["token"]
        shown = root.get(f"{alpha.auth_url}/auth/tokens", headers={"X-Subject-Token": token}).json()["token"]
        assert shown["user"]["name"] == "carol" and shown["methods"] == ["openid"]
        user = root.get(f"{alpha.auth_url}/users/{shown['user']['id']}").json()["user"]
        assert user["email"] == "carol@example.org"
        # Nothing of it is left to be used again.
        assert not [cookie for cookie in browser.cookies if cookie.name.startswith("sturnus-sso-")]
        again = requests.get(page.url, allow_redirects=False, timeout=10)
        assert again.status_code == 401
