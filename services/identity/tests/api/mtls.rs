//! OAuth 2.0 with mutual TLS: certificates as clients, and tokens that are bound to them.

use http_api::Certificate;
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::cloud::*;

const PATH: &str = "/v3/OS-OAUTH2/token";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

pub fn uid() -> DnType {
    DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 1])
}
fn dc() -> DnType {
    DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 25])
}
fn email() -> DnType {
    DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1])
}

fn name(parts: &[(DnType, &str)]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    parts.iter().for_each(|(kind, value)| name.push(kind.clone(), *value));
    name
}

/// A certificate of a client by an authority of that name; each has a key of its own.
pub fn certificate(issuer: &str, parts: &[(DnType, &str)]) -> Certificate {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.distinguished_name = name(&[(DnType::CommonName, issuer)]);
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = name(parts);
    let issuer = Issuer::new(authority, KeyPair::generate().unwrap());
    let made = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
    Certificate::from_der(made.der().to_vec())
}

struct Client {
    admin: String,
    user: String,
    project: String,
}

impl Client {
    /// A user with a default project, and a mapping by which certificates of the authority `root_a` name all of a user, those of `root_b` the id alone.
    async fn of(cloud: &Cloud) -> Client {
        let admin = cloud.admin().await;
        let project = cloud.project(&admin, "p", None).await;
        let user = json!({ "name": "client", "default_project_id": project, "email": "c@acme.example", "password": PASSWORD });
        let user = id(&cloud.post(&admin, "/v3/users", json!({ "user": user })).await.is(201));
        let member = cloud.role(&admin, "member").await;
        cloud.put(&admin, &format!("/v3/projects/{project}/users/{user}/roles/{member}")).await.is(204);
        let by = |issuer: &str| json!({ "type": "SSL_CLIENT_ISSUER_DN_CN", "any_one_of": [issuer] });
        let is = |attribute: &str| json!({ "type": format!("SSL_CLIENT_SUBJECT_DN_{attribute}") });
        let whole = json!({ "name": "{0}", "id": "{1}", "email": "{2}", "domain": { "id": "{3}" } });
        let rules = json!([
            { "local": [{ "user": whole }], "remote": [is("CN"), is("UID"), is("EMAILADDRESS"), is("DC"), by("root_a")] },
            { "local": [{ "user": { "id": "{0}" } }], "remote": [is("UID"), by("root_b")] },
            // Says nothing of who it is.
            { "local": [{ "user": { "name": "client" } }, { "group": { "id": "g" } }], "remote": [by("root_c")] },
        ]);
        let client = Client { admin, user, project };
        client.map(cloud, rules).await;
        client
    }

    async fn map(&self, cloud: &Cloud, rules: Value) {
        let path = "/v3/OS-FEDERATION/mappings/oauth2_mapping";
        cloud.ask(&self.admin, "PUT", path, json!({ "mapping": { "rules": rules } })).await.is(201);
    }

    fn parts(&self) -> [(DnType, &str); 4] {
        [(DnType::CommonName, "client"), (uid(), &self.user), (email(), "c@acme.example"), (dc(), "default")]
    }

    fn shown(&self) -> Certificate {
        certificate("root_a", &self.parts())
    }

    async fn ask(&self, cloud: &Cloud, shown: Option<&Certificate>) -> Answer {
        let form = format!("grant_type=client_credentials&client_id={}", self.user);
        cloud.send_with(shown, "POST", PATH, &[FORM], form.into()).await
    }

    #[track_caller]
    fn refused(answer: &Answer) {
        let wanted = json!({ "error": "invalid_client", "error_description": "Client authentication failed." });
        assert_eq!((answer.status, &answer.body), (401, &wanted));
    }
}

pub async fn a_certificate_is_a_client(cloud: Cloud) {
    let client = Client::of(&cloud).await;
    let shown = client.shown();
    let answer = client.ask(&cloud, Some(&shown)).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    let body = answer.is(200);
    assert_eq!((&body["token_type"], body.as_object().unwrap().len()), (&json!("Bearer"), 3));
    let token = body["access_token"].as_str().unwrap();
    let seen = cloud.validate(&client.admin, token).await.is(200)["token"].clone();
    assert_eq!((&seen["methods"], &seen["project"]["id"]), (&json!(["oauth2_credential"]), &json!(client.project)));
    assert_eq!((&seen["user"]["id"], &seen["roles"][0]["name"]), (&json!(client.user), &json!("member")));
    let bound = seen["oauth2_credential"]["x5t#S256"].as_str().unwrap();
    assert_eq!((bound.len(), seen["oauth2_credential"].as_object().unwrap().len()), (44, 1));
    // Another certificate of the same name is another one.
    let other = client.ask(&cloud, Some(&client.shown())).await.is(200)["access_token"].as_str().unwrap().to_string();
    assert_ne!(cloud.validate(&client.admin, &other).await.is(200)["token"]["oauth2_credential"]["x5t#S256"], bound);
    // Less is asked of those by another authority.
    client.ask(&cloud, Some(&certificate("root_b", &[(uid(), &client.user)]))).await.is(200);
    // A client that has a secret besides and names nobody in the form comes by the secret.
    let basic = [FORM, ("authorization", "Basic eDp5")];
    Client::refused(&cloud.send_with(Some(&shown), "POST", PATH, &basic, "grant_type=client_credentials".into()).await);
}

/// A token that was stolen is worth nothing without the key of its certificate (RFC 8705, section 3), wherever it is tried.
pub async fn a_token_is_bound_to_its_certificate(cloud: Cloud) {
    let client = Client::of(&cloud).await;
    let shown = client.shown();
    let token = client.ask(&cloud, Some(&shown)).await.is(200)["access_token"].as_str().unwrap().to_string();
    let headers = [("x-auth-token", token.as_str())];
    let again = json!({ "auth": { "identity": { "methods": ["token"], "token": { "id": token } } } }).to_string();
    let both = [headers[0], ("x-subject-token", &token)];
    for (method, path, headers, body) in [
        ("GET", "/compute/v2.1/servers", &headers[..], ""),
        ("GET", "/v3/auth/projects", &headers, ""),
        ("GET", "/v3/auth/tokens", &both, ""),
        ("POST", "/v3/auth/tokens", &[], again.as_str()),
    ] {
        let wanted = if method == "POST" { 201 } else { 200 };
        assert_eq!(cloud.send_with(Some(&shown), method, path, headers, body.into()).await.status, wanted, "{path}");
        for wrong in [None, Some(&client.shown()), Some(&certificate("root_b", &[(uid(), &client.user)]))] {
            assert_eq!(cloud.send_with(wrong, method, path, headers, body.into()).await.status, 401, "{path}");
        }
    }
    // What comes of it is bound as it is, and to its project.
    let got = cloud.send_with(Some(&shown), "POST", "/v3/auth/tokens", &[], again.into()).await;
    assert_eq!(got.body["token"]["oauth2_credential"], cloud.validate(&client.admin, &token).await.is(200)["token"]["oauth2_credential"]);
    assert_eq!(cloud.get(&got.token, "/v3/auth/projects").await.status, 401);
    let identity = json!({ "methods": ["token"], "token": { "id": token } });
    let wider = json!({ "auth": { "identity": identity, "scope": "unscoped" } }).to_string();
    assert_eq!(cloud.send_with(Some(&shown), "POST", "/v3/auth/tokens", &[], wider.into()).await.status, 401);
    // The certificate makes no other token good that is not bound to it, nor bad.
    assert_eq!(cloud.send_with(Some(&shown), "GET", "/v3/auth/projects", &[("x-auth-token", &client.admin)], Vec::new()).await.status, 200);
    // A header that says so is no certificate.
    let header = [headers[0], ("client-cert", ":AAAA:"), ("ssl-client-cert", "x"), ("x-ssl-client-cert", "x")];
    assert_eq!(cloud.send("GET", "/v3/auth/projects", &header, Vec::new()).await.status, 401);
    // It goes with the user.
    cloud.patch(&client.admin, &format!("/v3/users/{}", client.user), json!({ "user": { "enabled": false } })).await.is(200);
    assert_eq!(cloud.send_with(Some(&shown), "GET", "/v3/auth/projects", &headers, Vec::new()).await.status, 401);
}

pub async fn a_certificate_of_another_is_refused(cloud: Cloud) {
    let client = Client::of(&cloud).await;
    let other = cloud.user(&client.admin, "other").await;
    Client::refused(&client.ask(&cloud, None).await);
    let mut all: Vec<Certificate> = Vec::new();
    for (at, wrong) in [(0, "other"), (1, other.as_str()), (2, "o@acme.example"), (3, "acme")] {
        let mut parts = client.parts();
        parts[at].1 = wrong;
        all.push(certificate("root_a", &parts));
        let mut fewer = client.parts().to_vec();
        fewer.remove(at);
        all.push(certificate("root_a", &fewer));
    }
    all.push(certificate("root_b", &[(uid(), &other)]));
    all.push(certificate("root_b", &[(DnType::CommonName, "client")]));
    // One that the mapping does not know, and one of which it says nothing that is one user's alone: with upstream that were anybody's.
    all.push(certificate("root_d", &client.parts()));
    all.push(certificate("root_c", &client.parts()));
    // Two names in one, or one that ends early for some (CVE-2009-2408).
    let id = client.user.clone();
    all.push(certificate("root_b", &[(uid(), &format!("{id}\0{other}"))]));
    all.push(Certificate::from_der(vec![0x30, 0]));
    for shown in &all {
        Client::refused(&client.ask(&cloud, Some(shown)).await);
    }
    // Somebody who is not there, or has no project to be let into, or no role there.
    let of = |user: &str| format!("grant_type=client_credentials&client_id={user}");
    for user in ["nobody", &other] {
        let shown = certificate("root_b", &[(uid(), user)]);
        Client::refused(&cloud.send_with(Some(&shown), "POST", PATH, &[FORM], of(user).into()).await);
    }
    let user = format!("/v3/users/{}", client.user);
    for (change, back) in [
        (json!({ "enabled": false }), json!({ "enabled": true })),
        (
            json!({ "options": { "multi_factor_auth_rules": [["password", "totp"]] } }),
            json!({ "options": { "multi_factor_auth_rules": null } }),
        ),
        (json!({ "default_project_id": cloud.project(&client.admin, "q", None).await }), json!({ "default_project_id": client.project })),
    ] {
        cloud.patch(&client.admin, &user, json!({ "user": change })).await.is(200);
        Client::refused(&client.ask(&cloud, Some(&client.shown())).await);
        cloud.patch(&client.admin, &user, json!({ "user": back })).await.is(200);
        client.ask(&cloud, Some(&client.shown())).await.is(200);
    }
    // Without the mapping nobody comes in; nor where certificates are not taken.
    cloud.delete(&client.admin, "/v3/OS-FEDERATION/mappings/oauth2_mapping").await.is(204);
    Client::refused(&client.ask(&cloud, Some(&client.shown())).await);
}

pub async fn ways_of_clients_are_chosen(cloud: Cloud) {
    let set = |config: &mut base::Config| {
        config.set("oauth2.oauth2_authn_methods", "client_secret_basic");
        config.set("oauth2.oauth2_cert_dn_mapping_id", "own");
    };
    let cloud = cloud.configured(set).await.unwrap();
    let client = Client::of(&cloud).await;
    Client::refused(&client.ask(&cloud, Some(&client.shown())).await);
    let cloud = cloud.configured(|config| config.set("oauth2.oauth2_cert_dn_mapping_id", "own")).await.unwrap();
    Client::refused(&client.ask(&cloud, Some(&client.shown())).await);
    let rules = json!([{ "local": [{ "user": { "id": "{0}" } }], "remote": [{ "type": "SSL_CLIENT_SUBJECT_DN_UID" }] }]);
    cloud.ask(&client.admin, "PUT", "/v3/OS-FEDERATION/mappings/own", json!({ "mapping": { "rules": rules } })).await.is(201);
    client.ask(&cloud, Some(&client.shown())).await.is(200);
    let token = client.ask(&cloud, Some(&client.shown())).await.body["access_token"].clone();
    // Signed tokens are bound as well.
    let set = |config: &mut base::Config| {
        config.set("token.provider", "jws");
        config.set("oauth2.oauth2_cert_dn_mapping_id", "own");
    };
    let cloud = cloud.configured(set).await.unwrap();
    let shown = client.shown();
    let signed = client.ask(&cloud, Some(&shown)).await.is(200)["access_token"].as_str().unwrap().to_string();
    assert!(signed.contains('.') && !token.as_str().unwrap().contains('.'));
    let headers = [("x-auth-token", signed.as_str())];
    assert_eq!(cloud.send_with(Some(&shown), "GET", "/v3/auth/projects", &headers, Vec::new()).await.status, 200);
    assert_eq!(cloud.send_with(None, "GET", "/v3/auth/projects", &headers, Vec::new()).await.status, 401);
}
