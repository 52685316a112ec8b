"""Keystone's own reading and making of tokens, in the virtual environment of `tools/venv keystone`.

Standard input: {"keys": directory, "signatures": directory, "methods": [...], "ask": [...]}, where each item is {"read": token},
{"make": payload} (a token), {"pack": payload} (the hex digits of what is sealed), {"read_signed": token} or {"sign": payload} (a token).
A payload has the names of keystone's `create_token`, and `version` unless it is signed. `keys` are those of Fernet tokens, `signatures`
has `private` and `public` as keys/jws.
Standard output: the list of answers, as JSON."""
import json
import sys

import msgpack
from oslo_config import cfg

import keystone.conf
from keystone.token import token_formatters
from keystone.token.providers.jws import core as jws

FIELDS = (
    "user_id", "methods", "audit_ids", "system", "domain_id", "project_id", "trust_id", "federated_group_ids",
    "identity_provider_id", "protocol_id", "access_token_id", "app_cred_id", "thumbprint", "issued_at", "expires_at",
)
ARGUMENTS = (
    "user_id", "methods", "system", "project_id", "domain_id", "expires_at", "audit_ids", "trust_id", "federated_group_ids",
    "identity_provider_id", "protocol_id", "access_token_id", "app_cred_id", "thumbprint",
)


def payload_class(version):
    return next(known for known in token_formatters._PAYLOAD_CLASSES if known.version == version)


def answer(formatter, question):
    if "read" in question:
        return dict(zip(FIELDS, formatter.validate_token(question["read"]), strict=True))
    if "make" in question:
        wanted = dict(question["make"])
        return formatter.create_token(payload_class=payload_class(wanted.pop("version")), **wanted)
    if "read_signed" in question:
        return dict(zip(FIELDS, jws.JWSFormatter().validate_token(question["read_signed"]), strict=True))
    if "sign" in question:
        return jws.JWSFormatter().create_token(**question["sign"])[0]
    wanted = question["pack"]
    form = payload_class(wanted["version"])
    assembled = form.assemble(*(wanted.get(name) for name in ARGUMENTS))
    return msgpack.packb((form.version,) + assembled).hex()


def main():
    wanted = json.load(sys.stdin)
    keystone.conf.configure()
    cfg.CONF(args=[], project="keystone", default_config_files=[])
    cfg.CONF.set_override("methods", wanted["methods"], group="auth")
    if wanted.get("keys"):
        cfg.CONF.set_override("key_repository", wanted["keys"], group="fernet_tokens")
    if wanted.get("signatures"):
        for kind in ("private", "public"):
            cfg.CONF.set_override(f"jws_{kind}_key_repository", f"{wanted['signatures']}/{kind}", group="jwt_tokens")
    formatter = token_formatters.TokenFormatter()
    json.dump([answer(formatter, question) for question in wanted["ask"]], sys.stdout)


main()
