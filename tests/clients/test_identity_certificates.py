"""Certificates of clients, as keystoneauth shows them, to a controller of their own that asks for them."""
import os
import pathlib
import socket
import subprocess
import time

import keystoneauth1.exceptions
import pytest
import requests
from keystoneauth1 import session
from keystoneauth1.identity.v3 import Password, TokenlessAuth
from keystoneauth1.identity.v3.oauth2_mtls_client_credential import OAuth2mTlsClientCredential

STURNUS = pathlib.Path(os.environ["STURNUS_HOME"]) / "bin" / "sturnus"


class Authority:
    """Signs certificates, by openssl."""

    def __init__(self, directory, name):
        self.directory = directory
        self.certificate, self.key = directory / f"{name}.pem", directory / f"{name}.key"
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                     "-addext", "basicConstraints=critical,CA:TRUE", "-keyout", self.key, "-out", self.certificate)

    def openssl(self, *words):
        subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=60)

    def issue(self, name, subject, extension="basicConstraints=CA:FALSE"):
        """Paths of the certificate and its key."""
        request, certificate, key = (self.directory / f"{name}.{end}" for end in ("csr", "crt", "pem"))
        self.openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", subject,
                     "-addext", extension, "-keyout", key, "-out", request)
        self.openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial", "-days", "2",
                     "-copy_extensions", "copy", "-out", certificate)
        return str(certificate), str(key)


class Cloud:
    """A controller that serves by TLS."""

    def __init__(self, directory):
        self.authority = Authority(directory, "ca")
        certificate, key = self.authority.issue("server", "/CN=localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"https://127.0.0.1:{port}/v3"
        home = directory / "home"
        home.mkdir()
        settings = {
            "listen": f"127.0.0.1:{port}", "public_url": self.url.removesuffix("/v3"), "fault.listen": "", "tls.certificate": certificate, "tls.key": key,
            "tls.client_ca": str(self.authority.certificate), "tokenless_auth.trusted_issuer": "CN=ca",
        }
        environment = {f"STURNUS_{name.upper().replace('.', '_')}": value for name, value in settings.items()}
        self.log = open(directory / "log", "w+")
        self.process = subprocess.Popen([STURNUS, "--home", home, "controller"], env={"PATH": os.environ["PATH"], **environment},
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT)
        self.until_it_serves()
        password = next(line for line in (home / "openrc").read_text().splitlines() if line.startswith("export OS_PASSWORD="))
        admin = Password(self.url, username="admin", password=password.split("=", 1)[1].strip("'\""), user_domain_id="default",
                         project_name="admin", project_domain_id="default")
        self.admin = session.Session(auth=admin, verify=str(self.authority.certificate))

    def until_it_serves(self):
        deadline = time.monotonic() + 120
        while True:
            try:
                requests.get(self.url, verify=str(self.authority.certificate), timeout=5)
                return
            except requests.ConnectionError:
                self.log.seek(0)
                assert self.process.poll() is None and time.monotonic() < deadline, self.log.read()
                time.sleep(0.1)

    def make(self, path, **body):
        return next(iter(self.admin.post(self.url + path, json=body).json().values()))

    def put(self, path, **body):
        assert self.admin.put(self.url + path, json=body or None).status_code in (200, 201, 204)

    def member(self, name):
        """A user with a project of its own, which is its default one."""
        project = self.make("/projects", project={"name": name})["id"]
        user = self.make("/users", user={"name": name, "default_project_id": project})["id"]
        role = self.admin.get(f"{self.url}/roles?name=member").json()["roles"][0]["id"]
        self.put(f"/projects/{project}/users/{user}/roles/{role}")
        return user, project

    def session(self, plugin, certificate):
        return session.Session(auth=plugin, cert=certificate, verify=str(self.authority.certificate))


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    cloud = Cloud(tmp_path_factory.mktemp("certificates"))
    yield cloud
    cloud.process.terminate()
    cloud.process.wait(timeout=60)


def test_a_certificate_is_a_client(cloud):
    user, project = cloud.member("client")
    rules = [{"local": [{"user": {"id": "{0}"}}], "remote": [{"type": "SSL_CLIENT_SUBJECT_DN_UID"}, {"type": "SSL_CLIENT_ISSUER_DN_CN", "any_one_of": ["ca"]}]}]
    cloud.put("/OS-FEDERATION/mappings/oauth2_mapping", mapping={"rules": rules})

    def client(certificate):
        return cloud.session(OAuth2mTlsClientCredential(cloud.url, f"{cloud.url}/OS-OAUTH2/token", user), certificate)

    own = cloud.authority.issue("client", f"/CN=client/UID={user}")
    ours = client(own)
    headers = ours.get_auth_headers()
    scheme, _, token = headers["Authorization"].partition(" ")
    assert scheme == "Bearer"
    shown = cloud.admin.get(f"{cloud.url}/auth/tokens", headers={"X-Subject-Token": token}).json()["token"]
    assert (shown["user"]["id"], shown["project"]["id"], shown["methods"]) == (user, project, ["oauth2_credential"])
    assert len(shown["oauth2_credential"]["x5t#S256"]) == 44
    assert ours.get(f"{cloud.url}/auth/projects").json()["projects"][0]["id"] == project
    compute = f"{cloud.url.removesuffix('/v3')}/compute/v2.1/servers"
    assert ours.get(compute).status_code == 200
    # Stolen, it is worth nothing: without a certificate, or with another one of the same name.
    again = cloud.authority.issue("again", f"/CN=client/UID={user}")
    for certificate in (None, again):
        for url in (compute, f"{cloud.url}/auth/projects"):
            answer = requests.get(url, headers={"X-Auth-Token": token}, cert=certificate, verify=str(cloud.authority.certificate), timeout=30)
            assert answer.status_code == 401
    with pytest.raises(keystoneauth1.exceptions.ClientException):
        client(cloud.authority.issue("other", "/CN=client/UID=other")).get_auth_headers()
    with pytest.raises(keystoneauth1.exceptions.ConnectionError):
        stranger = Authority(cloud.authority.directory, "stranger")
        client(stranger.issue("stranger-client", f"/CN=client/UID={user}")).get_auth_headers()


def test_a_certificate_stands_for_a_token(cloud):
    user, project = cloud.member("robot")
    issuer = subprocess.run(["sha256sum"], input=b"CN=ca", capture_output=True, check=True).stdout.split()[0].decode()
    path = f"/OS-FEDERATION/identity_providers/{issuer}"
    local = {"name": "{0}", "domain": {"id": "default"}, "type": "local"}
    rules = [{"local": [{"user": local}], "remote": [{"type": "SSL_CLIENT_S_DN_CN"}]}]
    cloud.put("/OS-FEDERATION/mappings/x509", mapping={"rules": rules})
    cloud.put(path, identity_provider={"domain_id": "default", "enabled": True})
    cloud.put(f"{path}/protocols/x509", protocol={"mapping_id": "x509"})
    plugin = TokenlessAuth(cloud.url, project_id=project)
    ours = cloud.session(plugin, cloud.authority.issue("robot", "/CN=robot"))
    assert ours.get(f"{cloud.url}/users/{user}").json()["user"]["name"] == "robot"
    for certificate in (None, cloud.authority.issue("nobody", "/CN=nobody")):
        with pytest.raises(keystoneauth1.exceptions.Unauthorized):
            cloud.session(plugin, certificate).get(f"{cloud.url}/users/{user}")
