"""A cloud as its users see it: through openstacksdk (`conn`) and the `openstack` command (`cli`)."""
import contextlib
import json
import logging
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import uuid

import openstack
import openstackclient.shell
import pytest
import requests

TOP = pathlib.Path(__file__).resolve().parents[2]
STURNUS = pathlib.Path(os.environ["STURNUS_HOME"]) / "bin" / "sturnus"


class CommandFailed(AssertionError):
    """`openstack` ended with another status than 0; its message is the text."""


class Cli:
    """`openstack`, called as users call it. Extra environment variables choose who calls."""

    def __init__(self, **environment):
        self.environment = environment

    def as_user(self, **environment):
        return Cli(**{**self.environment, **environment})

    def text(self, *words):
        """What the command prints.

        It runs in a fork of this process, which has imported the client already: a tenth of the time of a process of its own, and the
        same program from its `main` on."""
        words = [str(word) for word in words]
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            pid = os.fork()
            if pid == 0:
                os._exit(self.become(words, out.fileno(), err.fileno()))
            deadline = time.monotonic() + 180
            while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.005)
            out.seek(0)
            err.seek(0)
            said, complained = out.read(), err.read()
        if ended[1] != 0:
            raise CommandFailed(f"openstack {' '.join(words)}: {complained.strip() or said.strip()}")
        return said

    def become(self, words, out, err):
        """In the child: the command and its exit status."""
        for number, target in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
            os.dup2(number, target)
        sys.stdin, sys.stdout, sys.stderr = (open(n, mode, closefd=False) for n, mode in ((0, "r"), (1, "w"), (2, "w")))
        logging.getLogger().handlers.clear()  # pytest's
        os.environ.update(self.environment)
        try:
            status = openstackclient.shell.main(words)
        except SystemExit as e:
            status = e.code
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        return status if isinstance(status, int) else int(bool(status))

    def __call__(self, *words):
        """What the command shows, as data."""
        return json.loads(self.text(*words, "-f", "json"))

    def names(self, *words):
        """The names in a list."""
        return [row.get("Name", row.get("name")) for row in self(*words)]


@pytest.fixture(scope="session")
def conn():
    return openstack.connect(cloud=os.environ.get("OS_CLOUD", "sturnus"))


@pytest.fixture(scope="session")
def cli():
    return Cli()


@pytest.fixture
def name():
    return f"clients-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def later():
    """`later(function, *arguments)` is called when the test ends, last first, whatever became of the test."""
    with contextlib.ExitStack() as stack:
        yield stack.callback


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def openid_provider(*redirects):
    """A real OpenID provider (npm oidc-provider) that runs meanwhile; where it is."""
    port = free_port()
    script = pathlib.Path(__file__).with_name("openid_provider.mjs")
    modules = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target")) / "openid-provider"
    process = subprocess.Popen(["node", script, str(port), modules, *redirects], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(requests.ConnectionError):
                assert requests.get(url + "/.well-known/openid-configuration", timeout=5).json()["issuer"] == url
                break
            assert process.poll() is None and time.monotonic() < deadline, "the provider does not start"
            time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.communicate()


class OwnCloud:
    """A cloud of a test's own: a controller alone, with these settings (`IMAGE_STORES`: the key `image.stores`)."""

    def __init__(self, home, **settings):
        self.home, self.port = home, free_port()
        self.auth_url = f"http://127.0.0.1:{self.port}/identity/v3"
        settings = {"HOME": home, "ROLE": "controller", "LISTEN": f"127.0.0.1:{self.port}", **settings, **self.settings()}
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("STURNUS_", "OS_"))}
        environment |= {f"STURNUS_{name}": str(value) for name, value in settings.items()}
        self.log = open(home / "output", "w+")
        self.process = subprocess.Popen([STURNUS, "up"], env=environment, stdout=self.log, stderr=self.log)

    def settings(self):
        """What depends on the cloud's own address."""
        return {}

    def wait(self):
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(requests.ConnectionError, requests.Timeout):
                if (self.home / "clouds.yaml").exists() and requests.get(self.auth_url, timeout=5).ok:
                    return
            assert self.process.poll() is None and time.monotonic() < deadline, (self.home / "output").read_text()[-2000:]
            time.sleep(0.1)

    def administrator(self):
        config = openstack.config.OpenStackConfig(config_files=[str(self.home / "clouds.yaml")], load_envvars=False)
        return config.get_one("sturnus").config["auth"]

    def __enter__(self):
        self.wait()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)
        self.log.close()


def until(what, look, seconds=60):
    """The first true value that `look` gives."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.2)


@pytest.fixture
def tenant(conn, name, later):
    """A project with a plain member in it: (project, user, connection of the user, environment of the user's `openstack`)."""
    password = uuid.uuid4().hex
    project = conn.identity.create_project(name=name, domain_id="default")
    later(conn.identity.delete_project, project)
    user = conn.identity.create_user(name=name, password=password, domain_id="default")
    later(conn.identity.delete_user, user)
    conn.identity.assign_project_role_to_user(project, user, conn.identity.find_role("member"))
    auth = {
        "auth_url": conn.auth["auth_url"],
        "username": name,
        "password": password,
        "project_name": name,
        "user_domain_id": "default",
        "project_domain_id": "default",
    }
    theirs = openstack.connect(auth=auth, region_name="RegionOne", identity_api_version="3")
    environment = {
        "OS_CLOUD": "",
        "OS_CLIENT_CONFIG_FILE": "/dev/null",
        "OS_IDENTITY_API_VERSION": "3",
        "OS_REGION_NAME": "RegionOne",
        **{f"OS_{key.upper()}": value for key, value in auth.items()},
    }
    return project, user, theirs, environment
