"""The image service's own client, `glance` (python-glanceclient), on a cloud of its own: a controller alone with two stores, which may download
from a server of this test."""
import functools
import hashlib
import http.server
import os
import pathlib
import re
import subprocess
import sys
import threading
import uuid

import glanceclient
import openstack
import pytest
from keystoneauth1 import session
from keystoneauth1.identity import v3

from conftest import OwnCloud, until

GLANCE = pathlib.Path(sys.executable).with_name("glance")
FORMATS = ("--disk-format", "raw", "--container-format", "bare")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Glance:
    """The command, called by one user."""

    def __init__(self, auth, home):
        self.auth, self.home = auth, home
        self.library = glanceclient.Client("2", session=session.Session(auth=v3.Password(**auth)))

    def __call__(self, *words):
        """What it prints."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        # It keeps schemas below the user's home.
        environment |= {"HOME": str(self.home), **{f"OS_{key.upper()}": str(value) for key, value in self.auth.items()}}
        words = [str(word) for word in words]
        # What is no terminal is content to it.
        terminal = os.openpty()
        try:
            done = subprocess.run([GLANCE, *words], env=environment, stdin=terminal[1], capture_output=True, text=True, timeout=180)
        finally:
            for end in terminal:
                os.close(end)
        assert done.returncode == 0, f"glance {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}"
        return done.stdout

    def shown(self, *words):
        """A table of two columns."""
        rows = re.findall(r"^\| (\S+) +\| (.*?) *\|$", self(*words), re.MULTILINE)
        return dict(rows)

    def listed(self, *words):
        """The cells of the rows of a list."""
        rows = [line.strip("|").split("|") for line in self(*words).splitlines() if line.startswith("|")]
        return [[cell.strip() for cell in row] for row in rows[1:]]

    def active(self, image_id):
        until("the image is active", lambda: self.library.images.get(image_id)["status"] == "active")
        return self.library.images.get(image_id)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A directory that is served, and where."""
    directory = tmp_path_factory.mktemp("served")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=directory))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield directory, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory, files):
    settings = {
        "IMAGE_STORES": f"second={tmp_path_factory.mktemp('second')}", "IMAGE_IMPORT_ALLOWED_HOSTS": "127.0.0.1",
        "IMAGE_IMPORT_ALLOWED_PORTS": files[1].rsplit(":", 1)[1],
    }
    with OwnCloud(tmp_path_factory.mktemp("cloud"), **settings) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def glance(cloud, tmp_path_factory):
    return Glance(cloud.administrator(), tmp_path_factory.mktemp("home"))


@pytest.fixture
def disk(tmp_path):
    file = tmp_path / "disk.raw"
    file.write_bytes(os.urandom(1 << 20))
    return file


def sha512(file):
    return hashlib.sha512(file.read_bytes()).hexdigest()


def test_an_image_with_its_content(glance, disk, name, tmp_path):
    made = glance.shown("image-create", *FORMATS, "--name", name, "--file", disk, "--property", "os_distro=none", "--min-ram", "64")
    image_id = made["id"]
    assert (made["status"], made["os_distro"], made["min_ram"]) == ("active", "none", "64")
    assert glance.library.images.get(image_id)["os_hash_value"] == sha512(disk)
    assert [image_id, name] in [row[:2] for row in glance.listed("image-list")]
    assert image_id not in glance("image-list", "--property-filter", "os_distro=other")
    glance("image-download", "--file", tmp_path / "back", image_id)
    assert (tmp_path / "back").read_bytes() == disk.read_bytes()
    changed = glance.shown("image-update", "--property", "hw_disk_bus=virtio", "--remove-property", "os_distro", "--hidden", "true", image_id)
    assert changed["hw_disk_bus"] == "virtio" and "os_distro" not in changed and changed["os_hidden"] == "True"
    assert image_id not in glance("image-list") and image_id in glance("image-list", "--hidden", "true")
    glance("image-tag-update", image_id, "fast")
    assert "fast" in glance.shown("image-show", image_id)["tags"] and image_id in glance("image-list", "--hidden", "true", "--tag", "fast")
    glance("image-tag-delete", image_id, "fast")
    glance("image-deactivate", image_id)
    assert glance.shown("image-show", image_id)["status"] == "deactivated"
    glance("image-reactivate", image_id)
    glance("image-delete", image_id)
    assert image_id not in glance("image-list", "--hidden", "true")


def test_content_that_is_staged_and_imported(glance, disk, name):
    image_id = glance.shown("image-create", *FORMATS, "--name", name)["id"]
    glance("image-stage", "--file", disk, image_id)
    assert glance.shown("image-show", image_id)["status"] == "uploading"
    glance("image-import", "--import-method", "glance-direct", "--stores", "local,second", image_id)
    image = glance.active(image_id)
    assert (image["os_hash_value"], image["stores"]) == (sha512(disk), "local,second")
    [task] = glance.library.images.get_associated_image_tasks(image_id)["tasks"]
    assert "success" in glance("image-tasks", image_id) and task["id"] in glance("task-list")
    assert glance.shown("task-show", task["id"])["status"] == "success"
    glance("stores-delete", "--store", "second", image_id)
    assert glance.library.images.get(image_id)["stores"] == "local"
    glance("image-delete", image_id)


def test_content_that_is_downloaded_and_copied(glance, disk, name, files):
    directory, url = files
    served = directory / name
    served.write_bytes(disk.read_bytes())
    made = glance.shown("image-create-via-import", *FORMATS, "--name", name, "--import-method", "web-download", "--uri", f"{url}/{name}")
    image = glance.active(made["id"])
    assert (image["os_hash_value"], image["stores"]) == (sha512(disk), "local")
    glance("image-import", "--import-method", "copy-image", "--stores", "second", made["id"])
    until("it is copied", lambda: glance.library.images.get(made["id"])["stores"] == "local,second")
    until("the import has ended", lambda: not glance.library.images.get(made["id"]).get("os_glance_import_task"))
    glance("image-delete", made["id"])


def test_members(cloud, glance, disk, name, tmp_path):
    conn = openstack.connect(auth=cloud.administrator(), region_name="RegionOne", identity_api_version="3")
    password = uuid.uuid4().hex
    project = conn.identity.create_project(name=name, domain_id="default")
    user = conn.identity.create_user(name=name, password=password, domain_id="default")
    conn.identity.assign_project_role_to_user(project, user, conn.identity.find_role("member"))
    other = Glance({**cloud.administrator(), "username": name, "password": password, "project_name": name}, tmp_path)
    image_id = glance.shown("image-create", *FORMATS, "--name", name, "--file", disk, "--visibility", "shared")["id"]
    assert image_id not in other("image-list")
    assert glance.listed("member-create", image_id, project.id) == [[image_id, project.id, "pending"]]
    assert image_id not in other("image-list") and image_id in other("image-list", "--member-status", "pending", "--visibility", "shared")
    other("member-update", image_id, project.id, "accepted")
    assert image_id in other("image-list")
    assert glance.listed("member-list", "--image-id", image_id) == [[image_id, project.id, "accepted"]]
    assert other.shown("member-get", image_id, project.id)["status"] == "accepted"
    glance("member-delete", image_id, project.id)
    assert image_id not in other("image-list")
    glance("image-delete", image_id)


def test_locations(cloud, glance, disk, name, tmp_path):
    auth = cloud.administrator()
    conn = openstack.connect(auth=auth, region_name="RegionOne", identity_api_version="3")
    role = conn.identity.find_role("service")
    project, user = conn.current_project_id, conn.current_user_id
    conn.identity.put(f"/projects/{project}/users/{user}/roles/{role.id}")
    service = Glance(auth, tmp_path)
    first = glance.shown("image-create", *FORMATS, "--name", name, "--file", disk)["id"]
    locations = service.library.images.get_image_locations(first)
    second = glance.shown("image-create", *FORMATS, "--name", name)["id"]
    validation = '{"os_hash_algo": "sha512", "os_hash_value": "%s"}' % sha512(disk)
    service("add-location", "--url", locations[0]["url"], "--validation-data", validation, second)
    assert glance.active(second)["os_hash_value"] == sha512(disk)
    glance("image-delete", first, second)


def test_what_the_cloud_says_of_itself(glance):
    stores = glance("stores-info")
    assert "local" in stores and "second" in stores and "data_dir" in glance("stores-info", "--detail")
    assert "import-methods" in glance("import-info")
    methods = glance.library.images.get_import_info()["import-methods"]["value"]
    assert sorted(methods) == ["copy-image", "glance-direct", "glance-download", "web-download"]
    assert "image_count_total" in glance("usage")
    assert "min_ram" in glance("explain", "image")


def test_cache(glance, disk, name):
    image_id = glance.shown("image-create", *FORMATS, "--name", name, "--file", disk, "--store", "second")["id"]
    glance("cache-queue", image_id)
    until("the image is cached", lambda: any(row[0] == image_id and "cached" in row for row in glance.listed("cache-list")))
    glance("cache-delete", image_id)
    assert image_id not in glance("cache-list")
    glance("image-delete", image_id)


def test_metadata_definitions(glance, name):
    glance("md-namespace-create", "--display-name", "Ours", "--visibility", "private", name)
    glance("md-property-create", "--name", "cores", "--title", "Cores", "--type", "integer", "--schema", '{"minimum": 1}', name)
    assert glance.shown("md-property-show", name, "cores")["title"] == "Cores"
    glance("md-property-update", "--name", "threads", "--title", "Threads", "--schema", '{"type": "integer"}', name, "cores")
    glance("md-object-create", "--name", "chip", "--schema", '{"properties": {"speed": {"title": "Speed", "type": "integer"}}}', name)
    assert "speed" in glance("md-object-property-show", name, "chip", "speed")
    glance("md-tag-create-multiple", "--names", "fast,slow", name)
    glance("md-tag-create", "--name", "new", name)
    glance("md-tag-update", "--name", "newer", name, "new")
    assert sorted(row[0] for row in glance.listed("md-tag-list", name)) == ["fast", "newer", "slow"]
    glance("md-resource-type-associate", "--name", "OS::Nova::Flavor", "--prefix", "hw_", name)
    assert "OS::Nova::Flavor" in glance("md-namespace-resource-type-list", name) and "OS::Nova::Flavor" in glance("md-resource-type-list")
    shown = glance.shown("md-namespace-show", name)
    assert all(word in str(shown) for word in ("threads", "chip", "fast", "OS::Nova::Flavor")), shown
    assert name in glance("md-namespace-list")
    glance("md-resource-type-deassociate", name, "OS::Nova::Flavor")
    glance("md-object-delete", name, "chip")
    glance("md-property-delete", name, "threads")
    glance("md-namespace-tags-delete", name)
    glance("md-namespace-delete", name)
    assert name not in glance("md-namespace-list")
