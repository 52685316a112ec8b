"""Assertions of a real keystone, and what pysaml2, which it signs with, makes of ours; in the virtual environment of `tools/venv keystone`.

Standard input: {"make": {the arguments of `samlize_token`}, "certificate": file, "key": file}, or {"metadata": document, "response": document,
"consumer": URL where it is brought}.
Standard output, as JSON: the document for an enhanced client; or {"issuer": ..., "name": ..., "attributes": {...}}, or {"refused": reason}."""
import base64
import json
import logging
import sys


def make(asked):
    import keystone.conf
    from keystone.federation import idp

    keystone.conf.configure()
    keystone.conf.CONF([], project="keystone", default_config_files=[])
    keystone.conf.CONF.set_override("certfile", asked["certificate"], group="saml")
    keystone.conf.CONF.set_override("keyfile", asked["key"], group="saml")
    response = idp.SAMLGenerator().samlize_token(**asked["make"])
    return idp.ECPGenerator().generate_ecp(response, "ss:mem:").to_string().decode()


def read(asked):
    import saml2
    from saml2.client import Saml2Client
    from saml2.config import SPConfig

    service = {
        "endpoints": {"assertion_consumer_service": [(asked["consumer"], saml2.BINDING_HTTP_POST)]},
        "allow_unsolicited": True, "want_response_signed": False, "want_assertions_signed": True,
    }
    config = SPConfig().load({
        "entityid": "a service provider", "metadata": {"inline": [asked["metadata"]]}, "allow_unknown_attributes": True, "service": {"sp": service},
    })
    encoded = base64.b64encode(asked["response"].encode()).decode()
    try:
        said = Saml2Client(config).parse_authn_request_response(encoded, saml2.BINDING_HTTP_POST, outstanding={})
    except Exception as problem:
        return {"refused": type(problem).__name__}
    return {"issuer": said.issuer(), "name": said.name_id.text, "attributes": said.ava}


logging.disable(logging.CRITICAL)
asked = json.load(sys.stdin)
json.dump(make(asked) if "make" in asked else read(asked), sys.stdout)
