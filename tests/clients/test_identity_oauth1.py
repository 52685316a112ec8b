"""OAuth 1.0a as the stock clients do it: the `openstack` command's part of a user and of a consumer, and keystoneauth's plugin."""
import keystoneauth1.exceptions
import pytest
from keystoneauth1 import session
from keystoneauth1.extras.oauth1 import V3OAuth1


@pytest.fixture
def consumer(cli, later):
    made = cli("consumer", "create", "--description", "a test's")
    later(cli.text, "consumer", "delete", made["id"])
    return made


def test_consumers(cli, consumer):
    assert consumer["id"] in [row["ID"] for row in cli("consumer", "list")]
    cli.text("consumer", "set", "--description", "another", consumer["id"])
    shown = cli("consumer", "show", consumer["id"])
    assert shown["description"] == "another" and "secret" not in shown


def test_a_consumer_acts_with_one_role(cli, conn, consumer):
    key = ("--consumer-key", consumer["id"], "--consumer-secret", consumer["secret"])
    request = cli("request", "token", "create", *key, "--project", conn.current_project_id)
    agreed = cli("request", "token", "authorize", "--request-key", request["id"], "--role", "member")
    access = cli("access", "token", "create", *key, "--request-key", request["id"], "--request-secret", request["secret"],
                 "--verifier", agreed["oauth_verifier"])
    plugin = V3OAuth1(conn.config.get_auth_args()["auth_url"].rstrip("/").removesuffix("/v3") + "/v3", consumer_key=consumer["id"],
                      consumer_secret=consumer["secret"], access_key=access["id"], access_secret=access["secret"])
    theirs = session.Session(auth=plugin, verify=conn.session.verify)
    assert theirs.get_project_id() == conn.current_project_id
    assert theirs.get_user_id() == conn.current_user_id
    got = plugin.get_access(theirs)
    assert got.oauth_access_token_id == access["id"] and got.oauth_consumer_id == consumer["id"]
    assert "admin" not in got.role_names and "member" in got.role_names
    wrong = V3OAuth1(plugin.auth_url, consumer_key=consumer["id"], consumer_secret="wrong", access_key=access["id"], access_secret=access["secret"])
    with pytest.raises(keystoneauth1.exceptions.Unauthorized):
        session.Session(auth=wrong, verify=conn.session.verify).get_token()
