"""EC2 credentials: made with the `openstack` command, and what botocore signs with them changed for tokens."""
import base64
import urllib.parse

import pytest
from botocore.auth import HmacV1Auth, S3SigV4Auth, SigV2Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from conftest import CommandFailed


@pytest.fixture
def key(cli, tenant, later):
    """A key of the tenant's user, as the `openstack` command made it."""
    project, user, _, environment = tenant
    mine = cli.as_user(**environment)
    made = mine("ec2", "credentials", "create")
    later(cli.text, "ec2", "credentials", "delete", "--user", user.id, made["access"])
    assert (made["project_id"], made["user_id"], made["trust_id"]) == (project.id, user.id, None)
    return made


def exchange(conn, path, credentials):
    return conn.identity.post(f"/{path}", json={"credentials": credentials})


def sent(key, request, **more):
    """What a service like Heat hands on of a request that came to it."""
    url = urllib.parse.urlsplit(request.url)
    return {"access": key["access"], "host": url.netloc, "verb": request.method, "path": url.path, "params": dict(request.params),
            "headers": dict(request.headers), **more}


def test_commands(cli, tenant, key):
    _, user, _, environment = tenant
    mine = cli.as_user(**environment)
    assert [row["Access"] for row in mine("ec2", "credentials", "list")] == [key["access"]]
    assert mine("ec2", "credentials", "show", key["access"])["secret"] == key["secret"]
    other = cli("ec2", "credentials", "create", "--user", user.id, "--project", key["project_id"])
    assert len(mine("ec2", "credentials", "list")) == 2
    mine.text("ec2", "credentials", "delete", other["access"])
    with pytest.raises(CommandFailed):
        mine("ec2", "credentials", "show", other["access"])


def test_botocore_signs_for_ec2(conn, tenant, key):
    _, user, theirs, _ = tenant
    secret = Credentials(key["access"], key["secret"])
    request = AWSRequest("GET", "https://ec2.example:8788/services/Cloud", params={"Action": "Describe Instances", "Filter.1": "a*b~c ü"})
    SigV4Auth(secret, "ec2", "RegionOne").add_auth(request)
    signature = request.headers["Authorization"].rpartition("Signature=")[2]
    body_hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    four = sent(key, request, signature=signature, body_hash=body_hash)
    four["headers"]["Host"] = "ec2.example:8788"
    request = AWSRequest("GET", "https://ec2.example/", params={"Action": "Describe Instances", "Filter.1": "a*b~c ü"})
    SigV2Auth(secret).add_auth(request)
    two = sent(key, request, signature=request.params.pop("Signature"))
    two["params"].pop("Signature", None)
    for credentials in (four, two):
        got = exchange(conn, "ec2tokens", credentials)
        assert got.status_code == 200, got.text
        assert (got.json()["token"]["user"]["id"], got.json()["token"]["project"]["id"]) == (user.id, key["project_id"])
        assert got.headers["X-Subject-Token"]
        # The user's own token is no service's (CVE-2025-65073).
        assert exchange(theirs, "ec2tokens", credentials).status_code == 403
        credentials["params"]["Action"] = "TerminateInstances"
        assert exchange(conn, "ec2tokens", credentials).status_code == 401


@pytest.mark.parametrize("version", ["v1", "v4"])
def test_botocore_signs_for_s3(conn, tenant, key, version):
    _, user, _, _ = tenant
    secret = Credentials(key["access"], key["secret"])
    request = AWSRequest("GET", "https://s3.example/bucket/key")
    signer = HmacV1Auth(secret, "s3", "RegionOne") if version == "v1" else S3SigV4Auth(secret, "s3", "RegionOne")
    signed = []
    if version == "v1":
        sign = signer.sign_string
        signer.sign_string = lambda text: signed.append(text) or sign(text)
    else:
        sign = signer.signature
        signer.signature = lambda text, request: signed.append(text) or sign(text, request)
    signer.add_auth(request)
    authorization = request.headers["Authorization"]
    signature = authorization.rpartition(":" if version == "v1" else "Signature=")[2]
    token = base64.urlsafe_b64encode(signed[0].encode()).decode()
    got = exchange(conn, "s3tokens", {"access": key["access"], "signature": signature, "token": token})
    assert got.status_code == 200, got.text
    assert got.json()["token"]["user"]["id"] == user.id
    wrong = signature[:-4] + ("AAA=" if version == "v1" else "0000")
    assert exchange(conn, "s3tokens", {"access": key["access"], "signature": wrong, "token": token}).status_code == 401
