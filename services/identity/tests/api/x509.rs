//! Certificates in place of tokens, and what stands in front vouching for users.

use http_api::{Certificate, Peer};
use rcgen::DnType;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cloud::*;
use crate::mtls::{certificate, uid};

/// A domain whose users come by certificates of the authority `ca`: those in the organisation `acme` are local users, others what a group is.
struct World {
    admin: String,
    domain: String,
    project: String,
    user: String,
    provider: String,
}

impl World {
    async fn of(cloud: &Cloud) -> World {
        let admin = cloud.admin().await;
        let made = async |path: &str, body: Value| id(&cloud.post(&admin, path, body).await.is(201));
        let domain = made("/v3/domains", json!({ "domain": { "name": "acme" } })).await;
        let project = made("/v3/projects", json!({ "project": { "name": "p", "domain_id": domain } })).await;
        let user = made("/v3/users", json!({ "user": { "name": "alice", "domain_id": domain, "password": PASSWORD } })).await;
        let group = made("/v3/groups", json!({ "group": { "name": "guests", "domain_id": domain } })).await;
        let (manager, reader) = (cloud.role(&admin, "manager").await, cloud.role(&admin, "reader").await);
        for path in [
            format!("/v3/domains/{domain}/users/{user}/roles/{manager}"),
            format!("/v3/projects/{project}/users/{user}/roles/{manager}"),
            format!("/v3/domains/{domain}/groups/{group}/roles/{reader}"),
            format!("/v3/OS-INHERIT/domains/{domain}/groups/{group}/roles/{reader}/inherited_to_projects"),
        ] {
            cloud.put(&admin, &path).await.is(204);
        }
        let provider: String = Sha256::digest("CN=ca").iter().map(|byte| format!("{byte:02x}")).collect();
        let path = format!("/v3/OS-FEDERATION/identity_providers/{provider}");
        cloud.ask(&admin, "PUT", &path, json!({ "identity_provider": { "enabled": true, "domain_id": domain } })).await.is(201);
        let is = |attribute: &str| json!({ "type": format!("SSL_CLIENT_S_DN_{attribute}") });
        let local = json!({ "name": "{0}", "domain": { "name": "acme" }, "type": "local" });
        let rules = json!([
            { "local": [{ "user": local }], "remote": [is("CN"), { "type": "SSL_CLIENT_S_DN_O", "any_one_of": ["acme"] }] },
            { "local": [{ "user": { "name": "{0}" }, "group": { "id": group } }],
              "remote": [is("CN"), { "type": "SSL_CLIENT_S_DN_O", "any_one_of": ["guests"] }] },
            { "local": [{ "user": { "name": "{0}" }, "group": { "id": "nowhere" } }],
              "remote": [is("CN"), { "type": "SSL_CLIENT_S_DN_O", "any_one_of": ["lost"] }] },
        ]);
        cloud.ask(&admin, "PUT", "/v3/OS-FEDERATION/mappings/m", json!({ "mapping": { "rules": rules } })).await.is(201);
        let protocol = json!({ "protocol": { "mapping_id": "m" } });
        cloud.ask(&admin, "PUT", &format!("{path}/protocols/x509"), protocol).await.is(201);
        World { admin, domain, project, user, provider }
    }
}

fn shown(issuer: &str, name: &str, organisation: &str) -> Certificate {
    certificate(issuer, &[(DnType::CommonName, name), (DnType::OrganizationName, organisation)])
}

async fn trusting(cloud: Cloud) -> Cloud {
    cloud.configured(|config| config.set("tokenless_auth.trusted_issuer", "CN=other,O=x;CN=ca")).await.unwrap()
}

pub async fn a_certificate_stands_for_a_token(cloud: Cloud) {
    let cloud = trusting(cloud).await;
    let world = World::of(&cloud).await;
    let alice = shown("ca", "alice", "acme");
    let get = async |shown: Option<&Certificate>, path: &str, scope: &[(&str, &str)]| {
        cloud.send_with(shown, "GET", path, scope, Vec::new()).await
    };
    let users = format!("/v3/users?domain_id={}", world.domain);
    let on_domain = [("x-domain-id", world.domain.as_str())];
    for scope in [&on_domain, &[("x-domain-name", "acme")]] {
        let found = get(Some(&alice), &users, scope).await.is(200);
        assert_eq!(found["users"][0]["id"], json!(world.user));
    }
    let on_project = [("x-project-id", world.project.as_str())];
    for scope in [
        &on_project[..],
        &[("x-project-name", "p"), ("x-project-domain-id", &world.domain)],
        &[("x-project-name", "p"), ("x-project-domain-name", "acme")],
    ] {
        get(Some(&alice), &format!("/v3/users/{}", world.user), scope).await.is(200);
        // It is the user with the user's roles there: no more.
        assert_eq!(get(Some(&alice), "/v3/regions", scope).await.status, 200);
        assert_eq!(get(Some(&alice), "/v3/domains", scope).await.status, 403);
    }
    // What asks for the caller's token takes it too.
    let body = json!({ "application_credential": { "name": "by certificate" } }).to_string();
    let path = format!("/v3/users/{}/application_credentials", world.user);
    assert_eq!(cloud.send_with(Some(&alice), "POST", &path, &on_project, body.into()).await.status, 201);
    // A token is looked at first, and what it says counts.
    let bad = [on_project[0], ("x-auth-token", "bad")];
    assert_eq!(get(Some(&alice), "/v3/regions", &bad).await.status, 401);
    // A scope is needed; where it leads, the user must have roles.
    get(Some(&alice), "/v3/regions", &[]).await.fault(400);
    get(Some(&alice), "/v3/regions", &[("x-project-name", "p")]).await.fault(400);
    for scope in
        [[("x-project-id", "nowhere")], [("x-domain-id", "default")], [("x-domain-name", "nowhere")], [("x-project-id", &world.domain)]]
    {
        get(Some(&alice), "/v3/regions", &scope).await.fault(401);
    }
    // Other services take tokens alone.
    assert_eq!(get(Some(&alice), "/compute/v2.1/servers", &on_project).await.status, 401);

    // A guest is what the group is, and nobody besides.
    let guest = shown("ca", "bob", "guests");
    get(Some(&guest), &users, &on_domain).await.is(200);
    get(Some(&guest), "/v3/regions", &on_project).await.is(200);
    let body = json!({ "user": { "name": "made", "domain_id": world.domain } }).to_string();
    let made = cloud.send_with(Some(&guest), "POST", "/v3/users", &on_domain, body.clone().into()).await;
    made.fault(403);
    cloud.send_with(Some(&alice), "POST", "/v3/users", &on_domain, body.into()).await.is(201);
    assert_eq!(cloud.get(&world.admin, "/v3/users?name=bob").await.is(200)["users"], json!([]));
    // Whose groups are not there, is nobody.
    get(Some(&shown("ca", "bob", "lost")), "/v3/regions", &on_domain).await.fault(401);
}

pub async fn who_has_no_certificate_of_a_trusted_issuer_needs_a_token(cloud: Cloud) {
    let cloud = trusting(cloud).await;
    let world = World::of(&cloud).await;
    let scope = [("x-domain-id", world.domain.as_str())];
    let tries =
        async |cloud: &Cloud, shown: Option<&Certificate>| cloud.send_with(shown, "GET", "/v3/regions", &scope, Vec::new()).await.status;
    let alice = shown("ca", "alice", "acme");
    assert_eq!(tries(&cloud, Some(&alice)).await, 200);
    for wrong in [
        None,
        Some(shown("other", "alice", "acme")),
        Some(shown("CN=ca", "alice", "acme")),
        Some(shown("ca,CN=ca", "alice", "acme")),
        Some(shown("ca", "nobody", "acme")),
        Some(shown("ca", "alice", "unknown")),
        Some(shown("ca", "alice\0", "acme")),
        Some(certificate("ca", &[(uid(), "alice"), (DnType::OrganizationName, "acme")])),
        Some(Certificate::from_der(vec![1, 2, 3])),
    ] {
        assert_eq!(tries(&cloud, wrong.as_ref()).await, 401);
    }
    // What a client writes of itself is not what a server found out (CVE-2015-0219).
    let told =
        [scope[0], ("ssl_client_i_dn", "CN=ca"), ("ssl-client-s-dn-cn", "alice"), ("ssl_client_s_dn_o", "acme"), ("remote_user", "alice")];
    assert_eq!(cloud.send("GET", "/v3/regions", &told, Vec::new()).await.status, 401);

    // Nor who is disabled, of whom more is demanded, whose provider is or has no such protocol.
    let provider = format!("/v3/OS-FEDERATION/identity_providers/{}", world.provider);
    let user = format!("/v3/users/{}", world.user);
    let rules = |rules: Value| json!({ "user": { "options": { "multi_factor_auth_rules": rules } } });
    for (path, change, back) in [
        (&user, json!({ "user": { "enabled": false } }), json!({ "user": { "enabled": true } })),
        (&user, rules(json!([["password", "totp"]])), rules(Value::Null)),
        (&provider, json!({ "identity_provider": { "enabled": false } }), json!({ "identity_provider": { "enabled": true } })),
        (
            &provider,
            json!({ "identity_provider": { "remote_ids": ["CN=x"] } }),
            json!({ "identity_provider": { "remote_ids": ["CN=ca"] } }),
        ),
    ] {
        cloud.patch(&world.admin, path, change).await.is(200);
        assert_eq!(tries(&cloud, Some(&alice)).await, 401);
        cloud.patch(&world.admin, path, back).await.is(200);
        assert_eq!(tries(&cloud, Some(&alice)).await, 200);
    }
    cloud.delete(&world.admin, &format!("{provider}/protocols/x509")).await.is(204);
    assert_eq!(tries(&cloud, Some(&alice)).await, 401);
    // Without trusted issuers nobody comes so.
    let cloud = cloud.configured(|_| {}).await.unwrap();
    assert_eq!(tries(&cloud, Some(&alice)).await, 401);
}

fn external(scope: Value) -> Vec<u8> {
    let mut auth = json!({ "identity": { "methods": ["external"], "external": {} } });
    if !scope.is_null() {
        auth["scope"] = scope;
    }
    json!({ "auth": auth }).to_string().into()
}

pub async fn a_certificate_names_a_user(cloud: Cloud) {
    let set = |config: &mut base::Config| {
        config.set("external.remote_user", "SSL_CLIENT_S_DN_CN");
        config.set("external.remote_domain", "SSL_CLIENT_S_DN_O");
    };
    let cloud = cloud.configured(set).await.unwrap();
    let world = World::of(&cloud).await;
    let carol = cloud.user(&world.admin, "carol").await;
    let login = async |shown: Option<&Certificate>, body: Vec<u8>| cloud.send_with(shown, "POST", "/v3/auth/tokens", &[], body).await;
    let alice = shown("ca", "alice", "acme");
    let got = login(Some(&alice), external(on_project(&world.project))).await.is(201);
    assert_eq!((&got["token"]["user"]["id"], &got["token"]["methods"]), (&json!(world.user), &json!(["external"])));
    // Without a domain it is the default one. A request that names no method means this one, as upstream.
    let bare = json!({ "auth": { "identity": { "methods": [] } } }).to_string();
    for body in [external(Value::Null), bare.clone().into()] {
        let got = login(Some(&certificate("ca", &[(DnType::CommonName, "carol")])), body).await.is(201);
        assert_eq!(got["token"]["user"]["id"], json!(carol));
    }
    for wrong in [
        None,
        Some(shown("ca", "alice", "nowhere")),
        Some(shown("ca", "carol", "acme")),
        Some(certificate("ca", &[(DnType::CommonName, "alice")])),
        Some(certificate("ca", &[(uid(), "carol")])),
        Some(shown("ca", "alice\0x", "acme")),
    ] {
        login(wrong.as_ref(), external(Value::Null)).await.fault(401);
        login(wrong.as_ref(), bare.clone().into()).await.fault(401);
    }
    // It is one method among others: all are about one user, and rules may ask for more.
    let both = |id: &str| {
        let identity = json!({ "methods": ["external", "password"], "external": {}, "password": { "user": user_by_id(id) } });
        json!({ "auth": { "identity": identity } }).to_string().into_bytes()
    };
    assert_eq!(login(Some(&alice), both(&world.user)).await.is(201)["token"]["methods"], json!(["external", "password"]));
    login(Some(&alice), both(&carol)).await.fault(401);
    let rules = json!({ "user": { "options": { "multi_factor_auth_rules": [["external", "password"]] } } });
    cloud.patch(&world.admin, &format!("/v3/users/{}", world.user), rules).await.is(200);
    assert!(login(Some(&alice), external(Value::Null)).await.headers.contains_key("openstack-auth-receipt"));
    login(Some(&alice), both(&world.user)).await.is(201);
    cloud.patch(&world.admin, &format!("/v3/users/{}", world.user), json!({ "user": { "enabled": false } })).await.is(200);
    login(Some(&alice), external(Value::Null)).await.fault(401);
}

/// The names of users that a proxy has asked for are taken from that proxy alone: anybody can write a header. See CVE-2015-0219 (names that only look
/// like the header's) and CVE-2024-10039 (a header that came around the proxy).
pub async fn a_proxy_names_a_user(cloud: Cloud) {
    let set = |config: &mut base::Config| {
        config.set("api.proxied", "true");
        config.set("api.proxies", "10.0.0.9");
        config.set("api.client_certificate_header", "client-cert");
        config.set("external.remote_user", "x-remote-user");
        config.set("external.remote_domain", "x-remote-domain");
        config.set("tokenless_auth.trusted_issuer", "CN=ca");
    };
    let cloud = cloud.configured(set).await.unwrap();
    let world = World::of(&cloud).await;
    let from = |address: &str| Peer { address: Some(address.parse().unwrap()), ..Peer::default() };
    let login = async |peer: &Peer, headers: &[(&str, &str)]| {
        cloud.send_from(peer, "POST", "/v3/auth/tokens", headers, external(Value::Null)).await
    };
    let said = [("x-remote-user", "alice"), ("x-remote-domain", "acme")];
    assert_eq!(login(&from("10.0.0.9"), &said).await.is(201)["token"]["user"]["id"], json!(world.user));
    for address in ["10.0.0.8", "127.0.0.1", "::1"] {
        let told = [said[0], said[1], ("x-forwarded-for", "10.0.0.9"), ("x-real-ip", "10.0.0.9"), ("forwarded", "for=10.0.0.9")];
        login(&from(address), &told).await.fault(401);
    }
    login(&Peer::default(), &said).await.fault(401);
    for wrong in [
        &[][..],
        &[("x-remote-user", ""), said[1]],
        &[("x_remote_user", "alice"), said[1]],
        &[said[0], said[0], said[1]],
        &[said[0]],
        &[said[0], ("x-remote-domain", "nowhere")],
    ] {
        login(&from("10.0.0.9"), wrong).await.fault(401);
    }
    // The same of certificates.
    let header = format!(":{}:", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, shown("ca", "alice", "acme").der()));
    let told = [("client-cert", header.as_str()), ("x-project-id", &world.project)];
    assert_eq!(cloud.send_from(&from("10.0.0.9"), "GET", "/v3/regions", &told, Vec::new()).await.status, 200);
    for address in ["10.0.0.8", "127.0.0.1"] {
        assert_eq!(cloud.send_from(&from(address), "GET", "/v3/regions", &told, Vec::new()).await.status, 401);
    }
    // Where no such proxy is, the headers say nothing, wherever they come from.
    let cloud = cloud.configured(|config| config.set("external.remote_user", "x-remote-user")).await.unwrap();
    for address in ["10.0.0.9", "127.0.0.1"] {
        cloud.send_from(&from(address), "POST", "/v3/auth/tokens", &said, external(Value::Null)).await.fault(401);
    }
}
