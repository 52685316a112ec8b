import hashlib
import os
import subprocess

import openstack.exceptions
import pytest

from conftest import CommandFailed, until


@pytest.fixture
def disk(tmp_path):
    """A small raw disk with some content."""
    file = tmp_path / "disk.raw"
    content = bytearray(os.urandom(1 << 20))
    content[510:512] = b"\x55\xaa"
    file.write_bytes(content)
    return file


def test_upload_download_and_checksums(cli, disk, name, later, tmp_path):
    made = cli("image", "create", "--disk-format", "raw", "--container-format", "bare", "--file", disk, "--property", "os_distro=none", "--tag", "t1", name)
    later(cli.text, "image", "delete", name)
    content = disk.read_bytes()
    shown = cli("image", "show", name)
    assert shown["status"] == "active" and shown["size"] == len(content)
    assert shown["checksum"] == hashlib.md5(content).hexdigest()
    properties = shown["properties"]
    assert properties["os_hash_algo"] == "sha512" and properties["os_hash_value"] == hashlib.sha512(content).hexdigest()
    assert properties["os_distro"] == "none" and shown["tags"] == ["t1"]
    cli.text("image", "save", "--file", tmp_path / "back", name)
    assert (tmp_path / "back").read_bytes() == content
    assert made["id"] in [row["ID"] for row in cli("image", "list", "--status", "active")]


def test_update_protect_and_delete(cli, disk, name):
    cli("image", "create", "--disk-format", "raw", "--file", disk, "--protected", name)
    with pytest.raises(CommandFailed, match="protected|403"):
        cli.text("image", "delete", name)
    cli.text("image", "set", "--unprotected", "--property", "hw_disk_bus=virtio", "--min-ram", "64", "--name", name + "-b", name)
    shown = cli("image", "show", name + "-b")
    assert shown["min_ram"] == 64 and shown["properties"]["hw_disk_bus"] == "virtio" and not shown["protected"]
    cli.text("image", "unset", "--property", "hw_disk_bus", name + "-b")
    assert "hw_disk_bus" not in cli("image", "show", name + "-b")["properties"]
    cli.text("image", "delete", name + "-b")
    assert name + "-b" not in cli.names("image", "list")


def test_deactivated_images_are_not_given_out(cli, disk, name, later, tmp_path, tenant):
    cli("image", "create", "--disk-format", "raw", "--file", disk, "--community", name)
    later(cli.text, "image", "delete", name)
    cli.text("image", "set", "--deactivate", name)
    assert cli("image", "show", name)["status"] == "deactivated"
    image = tenant[2].image.find_image(name) or tenant[2].image.get_image(cli("image", "show", name)["id"])
    # The SDK's own download looks at the checksum before the status, and so tells a refusal as damage.
    assert tenant[2].image.get(f"/images/{image.id}/file").status_code == 403
    cli.text("image", "set", "--activate", name)
    assert cli("image", "show", name)["status"] == "active"


def test_a_private_image_is_nobody_elses(cli, conn, disk, name, later, tenant):
    image_id = cli("image", "create", "--disk-format", "raw", "--file", disk, "--private", name)["id"]
    later(cli.text, "image", "delete", name)
    with pytest.raises(openstack.exceptions.NotFoundException):
        tenant[2].image.get_image(image_id)
    assert image_id not in [i.id for i in tenant[2].image.images()]


def test_an_image_with_a_backing_file_is_refused(conn, name, later, tmp_path):
    base, overlay = tmp_path / "base.raw", tmp_path / "overlay.qcow2"
    base.write_bytes(bytes(1 << 20))
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, overlay], check=True)
    image = conn.image.create_image(name=name, disk_format="qcow2", container_format="bare")
    later(conn.image.delete_image, image, ignore_missing=True)
    answer = conn.image.put(f"/images/{image.id}/file", data=overlay.read_bytes(), headers={"Content-Type": "application/octet-stream"})
    assert answer.status_code in (400, 415)
    assert conn.image.get_image(image.id).status != "active"


def test_pages(conn, name, later):
    made = [conn.image.create_image(name=f"{name}-{n}", disk_format="raw", container_format="bare") for n in range(5)]
    for image in made:
        later(conn.image.delete_image, image, ignore_missing=True)
    listed = [i.name for i in conn.image.images(limit=2, sort="name:asc") if i.name.startswith(name)]
    assert listed == [f"{name}-{n}" for n in range(5)]


def test_stage_import_and_its_task(cli, conn, disk, name, later):
    image_id = conn.image.create_image(name=name, disk_format="raw", container_format="bare").id
    later(cli.text, "image", "delete", image_id)
    assert "glance-direct" in str(cli("image", "import", "info"))
    cli.text("image", "stage", "--file", disk, image_id)
    assert cli("image", "show", image_id)["status"] == "uploading"
    cli.text("image", "import", "--method", "glance-direct", "--wait", image_id)
    shown = cli("image", "show", image_id)
    assert shown["status"] == "active" and shown["checksum"] == hashlib.md5(disk.read_bytes()).hexdigest()
    tasks = conn.image.get(f"/images/{image_id}/tasks").json()["tasks"]
    assert [task["status"] for task in tasks] == ["success"]
    assert tasks[0]["id"] in [row["ID"] for row in cli("image", "task", "list")]
    assert cli("image", "task", "show", tasks[0]["id"])["status"] == "success"


def test_web_download_does_not_reach_this_machine(cli, conn, name, later):
    image = conn.image.create_image(name=name, disk_format="raw", container_format="bare")
    later(cli.text, "image", "delete", image.id)
    for uri in ("http://127.0.0.1:80/", "http://[::1]/", "http://169.254.169.254/latest/meta-data", "ftp://example.org/x"):
        answer = conn.image.post(f"/images/{image.id}/import", json={"method": {"name": "web-download", "uri": uri}})
        assert answer.status_code == 400, uri


def test_stores(cli):
    stores = cli("image", "stores", "list")
    assert "local" in [row["ID"] for row in stores]
    assert "data_dir" in str(cli("image", "stores", "list", "--detail"))


def test_metadata_definitions(cli, name, later):
    assert "OS::Compute::Watchdog" in [row["namespace"] for row in cli("image", "metadef", "namespace", "list")]
    made = cli("image", "metadef", "namespace", "create", "--display-name", "Ours", "--public", "--unprotected", name)
    later(cli.text, "image", "metadef", "namespace", "delete", name)
    assert made["namespace"] == name and made["visibility"] == "public"
    cli.text("image", "metadef", "object", "create", "--namespace", name, "chip")
    assert [row["name"] for row in cli("image", "metadef", "object", "list", name)] == ["chip"]
    cli.text("image", "metadef", "object", "update", "--name", "chips", name, "chip")
    cli.text("image", "metadef", "property", "create", "--name", "cores", "--title", "Cores", "--type", "integer", "--schema", '{"minimum": 1}', name)
    assert cli("image", "metadef", "property", "show", name, "cores")["title"] == "Cores"
    cli.text("image", "metadef", "resource", "type", "association", "create", name, "OS::Nova::Flavor")
    assert "OS::Nova::Flavor" in str(cli("image", "metadef", "resource", "type", "association", "list", name))
    assert "OS::Nova::Flavor" in str(cli("image", "metadef", "resource", "type", "list"))
    cli.text("image", "metadef", "namespace", "set", "--tag", "fast", name)
    assert "fast" in str(cli("image", "metadef", "namespace", "show", name))
    cli.text("image", "metadef", "property", "delete", name, "cores")
    cli.text("image", "metadef", "object", "delete", name, "chips")


def test_cached_images(cli, disk, name, later):
    image_id = cli("image", "create", "--disk-format", "raw", "--file", disk, name)["id"]
    later(cli.text, "image", "delete", image_id)
    states = lambda: {row["ID"]: row["State"] for row in cli("cached", "image", "list")}
    cli.text("cached", "image", "queue", image_id)
    until("the image is cached", lambda: states().get(image_id) == "cached")
    cli.text("cached", "image", "delete", image_id)
    assert image_id not in states()


def test_limits_are_the_identity_services(cli, conn, name, later):
    before = conn.image.get("/info/usage").json()["usage"]["image_count_total"]
    assert before["limit"] == -1
    limit = cli("registered", "limit", "create", "--service", "image", "--default-limit", str(before["usage"]), "image_count_total")
    later(cli.text, "registered", "limit", "delete", limit["id"])
    with pytest.raises(CommandFailed, match="image_count_total|413"):
        cli("image", "create", "--disk-format", "raw", name)
    cli.text("registered", "limit", "set", "--default-limit", "-1", limit["id"])
    image_id = cli("image", "create", "--disk-format", "raw", name)["id"]
    cli.text("image", "delete", image_id)
