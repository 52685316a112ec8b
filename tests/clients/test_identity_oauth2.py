"""OAuth 2.0 client credentials, as keystoneauth's plugin asks with them."""
import keystoneauth1.exceptions
import pytest
from keystoneauth1 import session
from keystoneauth1.identity.v3.oauth2_client_credential import OAuth2ClientCredential


def test_a_credential_is_a_client(conn, tenant):
    project, user, theirs, _ = tenant
    wanted = {"application_credential": {"name": "client", "roles": [{"name": "reader"}]}}
    answer = theirs.identity.post(f"/users/{user.id}/application_credentials", json=wanted)
    assert answer.status_code == 201, answer.text
    made = answer.json()["application_credential"]
    url = conn.config.get_auth_args()["auth_url"].rstrip("/").removesuffix("/v3") + "/v3"

    def client(secret):
        plugin = OAuth2ClientCredential(url, oauth2_endpoint=f"{url}/OS-OAUTH2/token", oauth2_client_id=made["id"], oauth2_client_secret=secret)
        return session.Session(auth=plugin, verify=conn.session.verify)

    session_of_client = client(made["secret"])
    headers = session_of_client.get_auth_headers()
    scheme, _, token = headers["Authorization"].partition(" ")
    assert scheme == "Bearer"
    shown = conn.identity.get("/auth/tokens", headers={"X-Subject-Token": token}).json()["token"]
    assert (shown["user"]["id"], shown["project"]["id"]) == (user.id, project.id)
    assert [role["name"] for role in shown["roles"]] == ["reader"]
    assert session_of_client.get(f"{url}/auth/projects").status_code == 200
    with pytest.raises(keystoneauth1.exceptions.ClientException):
        client("wrong").get_auth_headers()
