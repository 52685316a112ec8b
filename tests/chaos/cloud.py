"""The cloud under test: how to call it, kill it, start it again and look at its machine, or at the machines it plays."""
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

import requests

TOP = pathlib.Path(__file__).absolute().parent.parent.parent
STURNUS = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target")) / os.environ.get("PROFILE", "release").replace("dev", "debug") / "sturnus"


LIST = {
    "server": ("compute", "/servers/detail"),
    "keypair": ("compute", "/os-keypairs"),
    "network": ("network", "/networks"),
    "subnet": ("network", "/subnets"),
    "port": ("network", "/ports"),
    "router": ("network", "/routers"),
    "floatingip": ("network", "/floatingips"),
    "security-group": ("network", "/security-groups"),
    "security-group-rule": ("network", "/security-group-rules"),
    "image": ("image", "/images?limit=1000"),
    "volume": ("block-storage", "/volumes/detail"),
    "snapshot": ("block-storage", "/snapshots/detail"),
}


def by_id(kind, body):
    """{id: resource} of what the answer to a list holds."""
    rows = next(value for key, value in body.items() if isinstance(value, list) and not key.endswith("_links"))
    if kind == "keypair":
        return {row["keypair"]["name"]: row["keypair"] for row in rows}
    return {row["id"]: row for row in rows}


def address(kind, id):
    """Service and path of one resource."""
    service, path = LIST[kind]
    return service, f"{path.split('?')[0].removesuffix('/detail')}/{id}"


class Unknown(Exception):
    """No answer, or one that says nothing about the outcome: the call may have happened or not."""


class Cloud:
    """The cloud of `make up`, with real guests."""

    settings = {}
    # Whether hosts are lost, so that what was granted may still come to nothing, and servers move.
    loses_hosts = False

    def __init__(self, home):
        self.home = home
        self.process_environment = {**os.environ, **self.settings, "STURNUS_HOME": str(home)}
        self.local = threading.local()
        self.token, self.urls = None, {}
        self.restart_gaps = []

    def prepare(self):
        """Starts it, filled with what clients use."""
        subprocess.run(["make", "--no-print-directory", "up"], cwd=TOP, check=True, stdin=subprocess.DEVNULL)
        self.login()

    def credentials(self):
        openrc = (self.home / "openrc").read_text()
        self.environment = dict(re.findall(r"^export (OS_\w+)=['\"]?([^'\"\n]*)", openrc, re.M))

    # --- calling ---
    def login(self):
        self.credentials()
        e = self.environment
        body = {"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": e["OS_USERNAME"], "password": e["OS_PASSWORD"], "domain": {"name": "Default"}}}},
            "scope": {"project": {"name": e["OS_PROJECT_NAME"], "domain": {"name": "Default"}}}}}
        url = e["OS_AUTH_URL"].rstrip("/")
        answer = requests.post(url + ("" if url.endswith("/v3") else "/v3") + "/auth/tokens", json=body, timeout=20)
        answer.raise_for_status()
        token = answer.json()["token"]
        self.project = token["project"]["id"]
        for service in token["catalog"]:
            public = next((e["url"].rstrip("/") for e in service["endpoints"] if e["interface"] == "public"), None)
            if public:
                self.urls[service["type"]] = public
        self.urls["network"] = self.urls["network"].removesuffix("/v2.0") + "/v2.0"
        self.urls["image"] = self.urls["image"].removesuffix("/v2") + "/v2"
        self.token = answer.headers["X-Subject-Token"]

    def call(self, method, service, path, body=None, data=None, version=None):
        """(status, decoded body). Raises Unknown without a telling answer."""
        if not hasattr(self.local, "session"):
            self.local.session = requests.Session()
        headers = {"X-Auth-Token": self.token}
        if version:
            headers["OpenStack-API-Version"] = f"{service} {version}"
        if data is not None:
            headers["Content-Type"] = "application/octet-stream"
        try:
            answer = self.local.session.request(method, self.urls[service] + path, json=body, data=data, headers=headers, timeout=30)
        except requests.RequestException as e:
            raise Unknown(str(e)) from None
        if answer.status_code in (502, 503, 504):
            raise Unknown(f"{answer.status_code}")
        try:
            decoded = answer.json() if answer.content else None
        except ValueError:
            decoded = answer.text
        return answer.status_code, decoded

    def ask(self, service, path, version=None, seconds=30):
        """A read that must succeed, tried again while the cloud is away."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                status, body = self.call("GET", service, path, version=version)
                if status == 200:
                    return body
                if time.monotonic() > deadline:
                    raise AssertionError(f"GET {service} {path}: {status} {body}")
            except Unknown as e:
                if time.monotonic() > deadline:
                    raise AssertionError(f"GET {service} {path}: {e}") from None
            time.sleep(0.05)

    # --- the process ---
    def pid(self):
        try:
            pid = int((self.home / "run" / "sturnus.pid").read_text())
            return pid if pathlib.Path(os.readlink(f"/proc/{pid}/exe")).name.startswith("sturnus") else None
        except (OSError, ValueError):
            return None

    def healthy(self):
        try:
            base = self.environment["OS_AUTH_URL"].split("/identity")[0].removesuffix("/v3").rstrip("/")
            return requests.get(base + "/healthz", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def start(self):
        with open(self.home / "sturnus.log", "ab") as log:
            process = subprocess.Popen([STURNUS, "up"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                       env=self.process_environment)
        threading.Thread(target=process.wait, daemon=True).start()
        deadline = time.monotonic() + 30
        while not self.healthy():
            if process.poll() is not None:
                raise AssertionError(f"sturnus ended at start with status {process.returncode}; see {self.home / 'sturnus.log'}")
            if time.monotonic() > deadline:
                raise AssertionError("sturnus does not serve within 30 s of its start")
            time.sleep(0.01)

    def kill(self, meanwhile=None):
        """SIGKILL to the cloud's process, and a new one. `meanwhile` is done while there is none."""
        pid, began = self.pid(), time.monotonic()
        if pid is None:
            raise AssertionError("sturnus ended by itself")
        os.kill(pid, signal.SIGKILL)
        while os.path.exists(f"/proc/{pid}/exe"):
            time.sleep(0.005)
        if meanwhile:
            meanwhile()
        self.start()
        self.restart_gaps.append(time.monotonic() - began)

    def tool(self, *words, check=True):
        done = subprocess.run([STURNUS, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
                              env={**self.process_environment, **self.environment})
        if check and done.returncode != 0:
            raise AssertionError(f"sturnus {' '.join(words)}: status {done.returncode}: {(done.stdout + done.stderr).strip()[-2000:]}")
        return done

    def guests(self):
        """{server id: process id} of the guests that run on this machine."""
        return guests_in(self.tool("guest", "list").stdout)


def guests_in(listing):
    found = {}
    for line in listing.splitlines():
        server = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", line)
        number = next((word for word in reversed(line.split()) if word.isdigit()), None)
        if server and number and int(number) > 1 and os.path.exists(f"/proc/{number}"):
            found[server[0]] = int(number)
    return found


class SiteCloud(Cloud):
    """A site of namespaces (`tools/site`) with real guests: host-0 has the controller, the others may be lost."""

    loses_hosts = True

    def __init__(self, home, count):
        self.site, self.count = home / "site", count
        super().__init__(self.site / "host-0")

    def prepare(self):
        self.site_tool("up", str(self.count))
        self.credentials()
        os.environ["REQUESTS_CA_BUNDLE"] = self.environment["OS_CACERT"]
        self.login()

    def stop(self):
        self.site_tool("down")

    def site_tool(self, *words, check=True):
        environment = {**os.environ, "STURNUS_HOME": str(self.site.parent)}
        done = subprocess.run([TOP / "tools" / "site", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, env=environment)
        if check and done.returncode != 0:
            raise AssertionError(f"tools/site {' '.join(words)}: status {done.returncode}: {(done.stdout + done.stderr).strip()[-2000:]}")
        return done.stdout

    def start(self, host=0):
        self.site_tool("on", str(host))

    def power_off(self, host):
        self.site_tool("off", str(host))

    def agent_kill(self, host):
        try:
            os.kill(int((self.site / f"host-{host}" / "run" / "sturnus.pid").read_text()), signal.SIGKILL)
        except (OSError, ValueError):
            pass  # it is not there

    def cut(self, host):
        self.site_tool("cut", str(host))

    def mend(self, host):
        self.site_tool("mend", str(host))

    def available(self):
        """Names of the hosts that are well."""
        rows = [line.split() for line in self.tool("host", "list", check=False).stdout.splitlines()[1:]]
        return {row[1] for row in rows if row[3:6] == ["unlocked", "enabled", "available"]}

    def guests(self):
        found = {}
        for host in range(self.count):
            found |= guests_in(self.site_tool("run", str(host), "sturnus", "guest", "list", check=False))
        return found


class SimulatedCloud(Cloud):
    """A cloud whose hosts are played in its process, in a home of its own. It needs no rights and touches nothing of this machine."""

    def __init__(self, home, hosts):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            listen = f"127.0.0.1:{free.getsockname()[1]}"
        self.settings = {"STURNUS_LISTEN": listen, "STURNUS_HOST_SIMULATED": "true", "STURNUS_HOST_SIMULATED_HOSTS": str(hosts)}
        super().__init__(home)
        self.environment = {"OS_AUTH_URL": f"http://{listen}/identity/v3"}

    def prepare(self):
        self.start()
        self.credentials()
        image = self.home / "image.qcow2"
        image.write_bytes(qcow2_header())
        self.tool("seed", "--image", str(image))
        self.login()

    def stop(self):
        pid = self.pid()
        if pid:
            os.kill(pid, signal.SIGTERM)

    def order(self, *words):
        """Tells a simulated host what happens to it."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(30)
            link.connect(str(self.home / "run" / "simulated.sock"))
            link.sendall(" ".join(words).encode() + b"\n")
            answer = link.makefile().readline().strip()
        assert answer in ("done", "no such guest"), f"{' '.join(words)}: {answer or 'no answer'}"

    def hosts(self):
        return sorted(path.name for path in (self.home / "simulated").iterdir())

    def instances(self):
        """{(host, server id): what the host's machine has of it}, as its disk says."""
        found = {}
        for path in (self.home / "simulated").glob("*/machine/instances/*.json"):
            try:
                found[path.parts[-4], path.stem] = json.loads(path.read_text())
            except FileNotFoundError:  # it goes just now
                pass
        return found

    def guests(self):
        return {server: has["guest"]["process"]["pid"] for (_, server), has in self.instances().items() if has["guest"]}

    def guest_dies_unseen(self, host, server):
        """Only while the cloud's process does not run."""
        path = self.home / "simulated" / host / "machine" / "instances" / f"{server}.json"
        has = json.loads(path.read_text())
        has["guest"] = None
        path.write_text(json.dumps(has))


def qcow2_header():
    """An empty disk of a MiB in the form qcow2, as far as anybody reads it who does not boot from it."""
    header = bytearray(4 * 65536)
    header[:8] = b"QFI\xfb\0\0\0\3"
    header[23], header[29], header[39], header[45] = 16, 0x10, 1, 3
    header[53], header[59], header[99], header[103] = 1, 1, 4, 104
    return bytes(header)
