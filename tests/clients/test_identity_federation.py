"""Federation beyond bearer tokens: a second cloud, with a controller alone, sends a user to the one under test (Keystone to Keystone, by
keystoneauth), and lets a browser in that a real OpenID provider vouches for (web single sign-on); a SAML provider is played (ECP)."""
import base64
import contextlib
import datetime
import html.parser
import http.server
import json
import os
import pathlib
import subprocess
import threading
import uuid

import pytest
import requests
from keystoneauth1 import exceptions, session
from keystoneauth1.extras._saml2.v3 import saml2
from keystoneauth1.identity import v3
from lxml import etree

from conftest import OwnCloud, TOP, openid_provider

HOME = pathlib.Path(os.environ["STURNUS_HOME"])
DASHBOARD = "http://dashboard.example/auth/websso/"


def make_key(home):
    """`saml.key` and its certificate, whose path it gives."""
    certificate = home / "saml.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=alpha", "-newkey", "rsa:2048", "-keyout", home / "saml.key",
         "-out", certificate], check=True, capture_output=True)
    return certificate


class Alpha(OwnCloud):
    """The cloud where the users are."""

    def settings(self):
        self.entity = f"{self.auth_url}/OS-FEDERATION/saml2/idp"
        self.certificate = make_key(self.home)
        return {
            "SAML_IDP_ENTITY_ID": self.entity, "SAML_IDP_SSO_ENDPOINT": f"{self.auth_url}/sso", "SAML_CERTFILE": self.certificate,
            "SAML_KEYFILE": self.home / "saml.key", "FEDERATION_TRUSTED_DASHBOARD": DASHBOARD,
        }


@pytest.fixture(scope="module")
def alpha(tmp_path_factory):
    cloud = Alpha(tmp_path_factory.mktemp("alpha"))
    try:
        cloud.wait()
        yield cloud
    finally:
        cloud.__exit__()


@contextlib.contextmanager
def believing(conn, entity, certificate, rules, more=""):
    """The cloud under test believes a SAML provider meanwhile; its name."""
    name = f"idp-{uuid.uuid4().hex[:8]}"
    for path, body in [
        (f"identity_providers/{name}", {"identity_provider": {"enabled": True, "remote_ids": [entity]}}),
        (f"mappings/{name}", {"mapping": {"rules": rules}}),
        (f"identity_providers/{name}/protocols/saml2", {"protocol": {"mapping_id": name}}),
    ]:
        made = conn.identity.put(f"/OS-FEDERATION/{path}", json=body)
        assert made.status_code == 201, made.text
    settings = HOME / "federation.toml"
    before = settings.read_text() if settings.exists() else None
    own = f'[[saml]]\nidentity_provider = "{name}"\nprotocol = "saml2"\nentity_id = "{entity}"\ncertificate = "{certificate}"\n{more}\n'
    settings.write_text((before or "") + own)
    try:
        yield name
    finally:
        settings.unlink() if before is None else settings.write_text(before)
        for path in (f"identity_providers/{name}", f"mappings/{name}"):
            assert conn.identity.delete(f"/OS-FEDERATION/{path}").status_code == 204


@pytest.fixture(scope="module")
def beta(conn, alpha):
    """The cloud under test believes `alpha`; gives the project that its administrator has a role on, and the address for assertions."""
    name = f"group-{uuid.uuid4().hex[:8]}"
    project = conn.identity.create_project(name=name, domain_id="default")
    group = conn.identity.create_group(name=name, domain_id="default")
    member = conn.identity.find_role("member")
    conn.identity.put(f"/projects/{project.id}/groups/{group.id}/roles/{member.id}")
    rules = [{
        "local": [{"user": {"name": "{0}"}, "group": {"id": group.id}}],
        "remote": [{"type": "openstack_user"}, {"type": "openstack_roles", "any_one_of": ["admin"]}],
    }]
    with believing(conn, alpha.entity, alpha.certificate, rules, "keystone = true") as idp:
        yield project, f"{conn.auth['auth_url']}/OS-FEDERATION/identity_providers/{idp}/protocols/saml2/auth"
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


SAML = {"saml": "urn:oasis:names:tc:SAML:2.0:assertion", "samlp": "urn:oasis:names:tc:SAML:2.0:protocol"}
EXCLUSIVE = "http://www.w3.org/2001/10/xml-exc-c14n#"
# As OpenSAML writes it, with a prefix that is kept though only a value uses it.
ANSWER = f"""<S:Envelope xmlns:S="http://schemas.xmlsoap.org/soap/envelope/"><S:Header>
<ecp:Response xmlns:ecp="urn:oasis:names:tc:SAML:2.0:profiles:SSO:ecp" S:mustUnderstand="1" S:actor="http://schemas.xmlsoap.org/soap/actor/next"
 AssertionConsumerServiceURL="{{consumer}}"/></S:Header><S:Body><samlp:Response xmlns:samlp="{SAML['samlp']}" xmlns:saml="{SAML['saml']}" ID="_{{one}}"
 Version="2.0" InResponseTo="{{request}}" Destination="{{consumer}}"><samlp:Status>
<samlp:StatusCode Value="urn:oasis:names:tc:SAML:2.0:status:Success"/></samlp:Status><saml:Assertion ID="_{{two}}" Version="2.0">
<saml:Issuer>https://idp.example</saml:Issuer><ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#"><ds:SignedInfo>
<ds:CanonicalizationMethod Algorithm="{EXCLUSIVE}"/><ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"/>
<ds:Reference URI="#_{{two}}"><ds:Transforms><ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>
<ds:Transform Algorithm="{EXCLUSIVE}"><ec:InclusiveNamespaces xmlns:ec="{EXCLUSIVE}" PrefixList="xs"/></ds:Transform></ds:Transforms>
<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmlenc#sha256"/><ds:DigestValue/></ds:Reference></ds:SignedInfo><ds:SignatureValue/>
</ds:Signature><saml:Subject><saml:NameID>{{user}}</saml:NameID><saml:SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer">
<saml:SubjectConfirmationData InResponseTo="{{request}}" NotOnOrAfter="{{end}}" Recipient="{{consumer}}"/></saml:SubjectConfirmation></saml:Subject>
<saml:Conditions><saml:AudienceRestriction><saml:Audience>{{audience}}</saml:Audience></saml:AudienceRestriction></saml:Conditions>
<saml:AttributeStatement xmlns:xs="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<saml:Attribute Name="urn:oid:0.9.2342.19200300.100.1.1" FriendlyName="uid"><saml:AttributeValue xsi:type="xs:string">{{user}}</saml:AttributeValue>
</saml:Attribute></saml:AttributeStatement></saml:Assertion></samlp:Response></S:Body></S:Envelope>"""


@contextlib.contextmanager
def saml_provider(home):
    """A provider for enhanced clients: it takes everybody for who they say, and signs with xmlsec1. Where it is."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            asked = etree.fromstring(self.rfile.read(int(self.headers["content-length"]))).find(".//samlp:AuthnRequest", SAML)
            user = base64.b64decode(self.headers["authorization"].split()[1]).decode().split(":")[0]
            end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=5)
            document = ANSWER.format(
                consumer=asked.get("AssertionConsumerServiceURL"), request=asked.get("ID"), audience=asked.findtext("saml:Issuer", None, SAML),
                one=uuid.uuid4().hex, two=uuid.uuid4().hex, user=user, end=end.strftime("%Y-%m-%dT%H:%M:%SZ"))
            (home / "answer.xml").write_text(document)
            sign = ["xmlsec1", "--sign", "--privkey-pem", home / "saml.key", "--id-attr:ID", f"{SAML['saml']}:Assertion", home / "answer.xml"]
            signed = subprocess.run(sign, check=True, capture_output=True).stdout
            self.send_response(200)
            self.send_header("content-type", "text/xml")
            self.end_headers()
            self.wfile.write(signed)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_an_enhanced_client_brings_an_assertion(conn, tmp_path):
    """keystoneauth's `v3samlpassword`: it is told whom to ask, asks, and brings what it gets."""
    certificate = make_key(tmp_path)
    rules = [{"local": [{"user": {"name": "{0}"}}], "remote": [{"type": "uid"}]}]
    with saml_provider(tmp_path) as url, believing(conn, "https://idp.example", certificate, rules) as name:
        plugin = saml2.Password(
            auth_url=conn.auth["auth_url"], identity_provider=name, protocol="saml2", identity_provider_url=url, username="bob", password="x")
        access = plugin.get_access(session.Session(auth=plugin))
        assert access.username == "bob"
        user = conn.identity.get(f"/users/{access.user_id}").json()["user"]
        assert user["federated"] == [{"idp_id": name, "protocols": [{"protocol_id": "saml2", "unique_id": "bob"}]}]
