"""Tokens of ours and of a real keystone that shares our keys (docs/decisions/0021-token-format.md)."""
import json
import os
import pathlib
import subprocess
import time

import pytest
import requests

TOP = pathlib.Path(__file__).resolve().parents[2]
METHODS = "external,password,token,oauth1,mapped,application_credential,totp,oauth2_credential,ec2credential,openid,saml2".split(",")


def keystone(*questions, signatures=None):
    """What keystone answers; see keystone_tokens.py."""
    wanted = {"keys": str(pathlib.Path(os.environ["STURNUS_HOME"]) / "keys" / "token"), "methods": METHODS, "ask": questions}
    if signatures:
        wanted["signatures"] = str(signatures)
    python = TOP / "target" / "keystone" / "bin" / "python"
    script = [python, pathlib.Path(__file__).with_name("keystone_tokens.py")]
    done = subprocess.run(script, input=json.dumps(wanted), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Tokens:
    """The API of tokens, called as the administrator."""

    def __init__(self, conn):
        self.url = conn.auth["auth_url"] + "/auth/tokens"
        self.user = {"id": conn.current_user_id, "password": conn.auth["password"]}
        self.mine, _ = self.issue({"project": {"id": conn.current_project_id}})

    def issue(self, scope, user=None):
        identity = {"methods": ["password"], "password": {"user": user or self.user}}
        made = requests.post(self.url, json={"auth": {"identity": identity, "scope": scope}}, timeout=30)
        assert made.status_code == 201, made.text
        return made.headers["X-Subject-Token"], made.json()["token"]

    def validate(self, token):
        return requests.get(self.url, headers={"X-Auth-Token": self.mine, "X-Subject-Token": token}, timeout=30)


@pytest.fixture
def tokens(conn):
    return Tokens(conn)


@pytest.fixture
def trust(conn, tenant):
    """A trust of a member to itself: (id, the member as the body of a login)."""
    project, user, theirs, environment = tenant
    role = conn.identity.find_role("member")
    wanted = {"trustor_user_id": user.id, "trustee_user_id": user.id, "project_id": project.id, "impersonation": False, "roles": [{"id": role.id}]}
    made = theirs.identity.post("/OS-TRUST/trusts", json={"trust": wanted})
    assert made.status_code == 201, made.text
    return made.json()["trust"]["id"], {"id": user.id, "password": environment["OS_PASSWORD"]}


def seconds(text):
    return text.partition(".")[0].rstrip("Z")


def test_keystone_reads_our_tokens(conn, tokens, trust):
    conn.identity.put(f"/domains/default/users/{conn.current_user_id}/roles/{conn.identity.find_role('reader').id}")
    trust_id, trustee = trust
    issued = [
        tokens.issue("unscoped"),
        tokens.issue({"project": {"id": conn.current_project_id}}),
        tokens.issue({"domain": {"id": "default"}}),
        tokens.issue({"system": {"all": True}}),
        tokens.issue({"OS-TRUST:trust": {"id": trust_id}}, trustee),
    ]
    for read, (_, ours) in zip(keystone(*({"read": token} for token, _ in issued)), issued, strict=True):
        assert read["user_id"] == ours["user"]["id"]
        assert read["methods"] == ours["methods"]
        assert read["audit_ids"] == ours["audit_ids"]
        assert read["project_id"] == ours.get("project", {}).get("id")
        assert read["domain_id"] == ours.get("domain", {}).get("id")
        assert read["system"] == ("all" if "system" in ours else None)
        assert read["trust_id"] == ours.get("OS-TRUST:trust", {}).get("id")
        assert seconds(read["issued_at"]) == seconds(ours["issued_at"])
        assert read["expires_at"] <= ours["expires_at"]  # never for longer than here


def test_we_read_keystones_tokens(conn, tokens, trust):
    conn.identity.put(f"/domains/default/users/{conn.current_user_id}/roles/{conn.identity.find_role('reader').id}")
    trust_id, trustee = trust
    _, lent = tokens.issue({"OS-TRUST:trust": {"id": trust_id}}, trustee)
    end = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(time.time() + 600))
    base = {"user_id": conn.current_user_id, "methods": ["password", "token"], "expires_at": end}
    base["audit_ids"] = ["AAECAwQFBgcICQoLDA0ODw", "EBESExQVFhcYGRobHB0eHw"]
    wanted = [
        {**base, "version": 0},
        {**base, "version": 1, "domain_id": "default"},
        {**base, "version": 2, "project_id": conn.current_project_id},
        {**base, "version": 8, "system": "all"},
        {**base, "version": 3, "user_id": trustee["id"], "project_id": lent["project"]["id"], "trust_id": trust_id},
    ]
    for token, asked in zip(keystone(*({"make": payload} for payload in wanted)), wanted, strict=True):
        answer = tokens.validate(token)
        assert answer.status_code == 200, (asked, answer.text)
        ours = answer.json()["token"]
        assert ours["user"]["id"] == asked["user_id"]
        assert ours["methods"] == asked["methods"]
        assert ours["audit_ids"] == asked["audit_ids"]
        assert ours["expires_at"] == asked["expires_at"]
        assert ours["issued_at"].endswith(".000000Z")
        assert ours.get("project", {}).get("id") == asked.get("project_id")
        assert ours.get("domain", {}).get("id") == asked.get("domain_id")
        assert ("system" in ours) == ("system" in asked)
        assert ours.get("OS-TRUST:trust", {}).get("id") == asked.get("trust_id")


def test_what_we_hold_ours_against_is_what_keystone_makes():
    vectors = json.loads((TOP / "services" / "identity" / "src" / "token" / "keystone.json").read_text())
    assert {vector["payload"]["version"] for vector in vectors} == set(range(11))
    packed = keystone(*({"pack": vector["payload"]} for vector in vectors))
    assert packed == [vector["packed"] for vector in vectors]


def test_keystone_reads_tokens_that_we_sign(tmp_path):
    vectors = json.loads((TOP / "services" / "identity" / "src" / "token" / "keystone_jws.json").read_text())
    for kind in ("private", "public"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / f"{kind}.pem").write_text(vectors[kind])
    tokens = vectors["tokens"]
    ours = keystone(*({"read_signed": token["ours"]} for token in tokens), signatures=tmp_path)
    theirs = keystone(*({"read_signed": token["theirs"]} for token in tokens), signatures=tmp_path)
    assert ours == theirs
    for read, token in zip(ours, tokens, strict=True):
        assert {name: value for name, value in read.items() if value is not None and name != "issued_at"} == token["payload"]
    # It still makes what we hold ours against.
    again = keystone(*({"sign": token["payload"]} for token in tokens), signatures=tmp_path)
    read = keystone(*({"read_signed": token} for token in again), signatures=tmp_path)
    assert [{**one, "issued_at": None} for one in read] == [{**one, "issued_at": None} for one in theirs]
