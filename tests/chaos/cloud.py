"""The cloud under test: how to call it, kill it, start it again and look at its machine."""
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

import requests

TOP = pathlib.Path(__file__).absolute().parent.parent.parent
HOME = pathlib.Path(os.environ.get("STURNUS_HOME", TOP / ".sturnus"))
STURNUS = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target")) / os.environ.get("PROFILE", "release").replace("dev", "debug") / "sturnus"


class Unknown(Exception):
    """No answer, or one that says nothing about the outcome: the call may have happened or not."""


class Cloud:
    def __init__(self):
        openrc = (HOME / "openrc").read_text()
        self.environment = dict(re.findall(r"^export (OS_\w+)=['\"]?([^'\"\n]*)", openrc, re.M))
        self.local = threading.local()
        self.token, self.urls = None, {}
        self.lock = threading.Lock()
        self.restart_gaps = []

    # --- calling ---
    def login(self):
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
            pid = int((HOME / "run" / "sturnus.pid").read_text())
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
        with open(HOME / "sturnus.log", "ab") as log:
            process = subprocess.Popen([STURNUS, "up"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                       env={**os.environ, "STURNUS_HOME": str(HOME)})
        threading.Thread(target=process.wait, daemon=True).start()
        deadline = time.monotonic() + 30
        while not self.healthy():
            if process.poll() is not None:
                raise AssertionError(f"sturnus ended at start with status {process.returncode}; see {HOME / 'sturnus.log'}")
            if time.monotonic() > deadline:
                raise AssertionError("sturnus does not serve within 30 s of its start")
            time.sleep(0.01)

    def kill(self):
        """SIGKILL to the cloud's process, and a new one. Returns how long the API was away."""
        pid, began = self.pid(), time.monotonic()
        if pid is None:
            raise AssertionError("sturnus ended by itself")
        os.kill(pid, signal.SIGKILL)
        while os.path.exists(f"/proc/{pid}/exe"):
            time.sleep(0.005)
        self.start()
        self.restart_gaps.append(time.monotonic() - began)

    def tool(self, *words, check=True):
        done = subprocess.run([STURNUS, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
                              env={**os.environ, **self.environment, "STURNUS_HOME": str(HOME)})
        if check and done.returncode != 0:
            raise AssertionError(f"sturnus {' '.join(words)}: status {done.returncode}: {(done.stdout + done.stderr).strip()[-2000:]}")
        return done

    def guests(self):
        """{server id: process id} of the guests that run on this machine."""
        found = {}
        for line in self.tool("guest", "list").stdout.splitlines():
            server = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", line)
            number = next((word for word in reversed(line.split()) if word.isdigit()), None)
            if server and number and int(number) > 1 and os.path.exists(f"/proc/{number}"):
                found[server[0]] = int(number)
        return found
