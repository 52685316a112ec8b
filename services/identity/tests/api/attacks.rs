//! Attacks that worked elsewhere, each with its number. Those on one kind of thing are beside its other tests.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use p256::ecdsa::Signature;
use serde_json::{Value, json};

use crate::cloud::*;

/// A plain member of a project: user and token.
async fn member(cloud: &Cloud, admin: &str, name: &str, project: &str) -> (String, String) {
    let (user, role) = (cloud.user(admin, name).await, cloud.role(admin, "member").await);
    cloud.put(admin, &format!("/v3/projects/{project}/users/{user}/roles/{role}")).await.is(204);
    let token = cloud.login(user_by_id(&user), on_project(project)).await.token;
    (user, token)
}

/// CVE-2026-42999: what a request said of its target, in its body or its query, stood in for what the store knows.
pub async fn a_request_does_not_say_what_it_is_about(cloud: Cloud) {
    let admin = cloud.admin().await;
    let project = cloud.project(&admin, "p", None).await;
    let (victim, theirs) = member(&cloud, &admin, "victim", &project).await;
    let (me, mine) = member(&cloud, &admin, "me", &project).await;
    let secret = json!({ "credential": { "type": "cert", "blob": "the secret", "user_id": victim } });
    let credential = format!("/v3/credentials/{}", id(&cloud.post(&theirs, "/v3/credentials", secret).await.is(201)));
    let lies = |mut body: Value| {
        let about = json!({ "user_id": me, "user": { "id": me, "domain_id": "default" }, "credential": { "user_id": me },
            "token": { "user_id": me }, "trust": { "trustor_user_id": me } });
        (body["target"], body["user_id"], body["enforce"]) = (about, json!(me), json!({ "is_admin": true }));
        body
    };
    let tags = json!({ "user": { "options": { "lock_password": true } } });
    for (method, path, body) in [
        ("GET", credential.clone(), json!({})),
        ("GET", format!("{credential}?user_id={me}&target.credential.user_id={me}"), json!({})),
        ("PATCH", credential.clone(), json!({ "credential": { "blob": "another" } })),
        ("DELETE", credential.clone(), json!({})),
        ("GET", format!("/v3/users/{victim}?user_id={me}"), json!({})),
        ("PATCH", format!("/v3/users/{victim}?user_id={me}"), tags),
        ("GET", format!("/v3/users/{victim}/application_credentials?user_id={me}"), json!({})),
        ("GET", format!("/v3/users/{victim}/credentials/OS-EC2?user_id={me}"), json!({})),
        ("POST", format!("/v3/users/{victim}/credentials/OS-EC2?user_id={me}"), json!({ "tenant_id": project })),
        (
            "POST",
            "/v3/OS-TRUST/trusts".into(),
            json!({ "trust": { "trustor_user_id": victim, "trustee_user_id": me, "project_id": project,
            "impersonation": true, "roles": [{ "name": "member" }] } }),
        ),
    ] {
        // Some bodies are refused for what they have too much.
        let answer = cloud.ask(&mine, method, &path, lies(body)).await;
        assert!(answer.status == 403 || method != "GET" && answer.status == 400, "{method} {path}: {} {}", answer.status, answer.body);
    }
    let headers = [("x-auth-token", mine.as_str()), ("x-subject-token", theirs.as_str())];
    cloud.send("DELETE", "/v3/auth/tokens", &headers, lies(json!({})).to_string().into_bytes()).await.fault(403);
    cloud.validate(&admin, &theirs).await.is(200);
    assert_eq!(cloud.get(&admin, &format!("/v3/users/{victim}")).await.is(200)["user"]["options"], json!({}));
    assert_eq!(cloud.get(&admin, &format!("/v3/users/{victim}/credentials/OS-EC2")).await.is(200)["credentials"], json!([]));
    assert_eq!(cloud.get(&admin, "/v3/OS-TRUST/trusts").await.is(200)["trusts"], json!([]));
    assert_eq!(cloud.get(&theirs, &credential).await.is(200)["credential"]["blob"], "the secret");
    // One's own things are there all the same.
    cloud.ask(&mine, "GET", &format!("/v3/users/{me}/application_credentials?user_id={victim}"), lies(json!({}))).await.is(200);

    // As was used to give oneself a role everywhere: who rules one domain says that it is about that one.
    let domain = id(&cloud.post(&admin, "/v3/domains", json!({ "domain": { "name": "d" } })).await.is(201));
    let manager = cloud.role(&admin, "manager").await;
    cloud.put(&admin, &format!("/v3/domains/{domain}/users/{me}/roles/{manager}")).await.is(204);
    let ruler = cloud.login(user_by_id(&me), on_domain(&domain)).await.token;
    let role = cloud.role(&admin, "member").await;
    for path in [
        format!("/v3/domains/default/users/{me}/roles/{role}"),
        format!("/v3/OS-INHERIT/domains/default/users/{me}/roles/{role}/inherited_to_projects"),
        format!("/v3/projects/{project}/users/{me}/roles/{role}?domain_id={domain}"),
    ] {
        let about = json!({ "target": { "domain": { "id": domain }, "project": { "domain_id": domain }, "user": { "domain_id": domain },
            "role": { "domain_id": domain } }, "domain_id": domain });
        cloud.ask(&ruler, "PUT", &path, about).await.fault(403);
    }
}

/// CVE-2014-2828: one method many times in a request was as many logins for the server, and one for whoever counts.
pub async fn a_method_is_tried_once(cloud: Cloud) {
    let cloud = cloud.configured(|config| config.set("password.attempts_per_minute", "3")).await.unwrap();
    let many = |user: Value| json!({ "auth": { "identity": { "methods": vec!["password"; 2000], "password": { "user": user } } } });
    let wrong = json!({ "name": "admin", "domain": { "id": "default" }, "password": "wrong" });
    cloud.post("", "/v3/auth/tokens", many(wrong)).await.fault(401);
    // Had each of them counted, there were no more answers now.
    let answer = cloud.post("", "/v3/auth/tokens", many(admin_user())).await.is(201);
    assert_eq!(answer["token"]["methods"], json!(["password"]));
}

/// CVE-2021-3563: of a long secret only the beginning was looked at.
pub async fn a_long_secret_counts_to_its_end(cloud: Cloud) {
    let admin = cloud.admin().await;
    let project = cloud.project(&admin, "p", None).await;
    let (user, token) = member(&cloud, &admin, "u", &project).await;
    let begin = "x".repeat(72);
    let made = json!({ "application_credential": { "name": "long", "secret": format!("{begin}right") } });
    let made = id(&cloud.post(&token, &format!("/v3/users/{user}/application_credentials"), made).await.is(201));
    let by = async |secret: String| {
        let identity = json!({ "methods": ["application_credential"], "application_credential": { "id": made, "secret": secret } });
        cloud.post("", "/v3/auth/tokens", json!({ "auth": { "identity": identity } })).await
    };
    for wrong in [begin.clone(), format!("{begin}wrong"), format!("{begin}righ"), format!("{begin}right!")] {
        by(wrong).await.fault(401);
    }
    by(format!("{begin}right")).await.is(201);
    cloud.patch(&admin, &format!("/v3/users/{user}"), json!({ "user": { "password": format!("{begin}right") } })).await.is(200);
    cloud.login(json!({ "id": user, "password": format!("{begin}wrong") }), Value::Null).await.fault(401);
    cloud.login(json!({ "id": user, "password": format!("{begin}right") }), Value::Null).await.is(201);
}

/// CVE-2014-3621: the address of an endpoint named a setting, and the catalogue told what it was set to.
pub async fn addresses_tell_no_settings(cloud: Cloud) {
    let admin = cloud.admin().await;
    let service = id(&cloud.post(&admin, "/v3/services", json!({ "service": { "type": "probe" } })).await.is(201));
    for name in ["admin_token", "store", "password", "user_id.__class__", "token.provider"] {
        for url in [format!("http://h/$({name})s"), format!("http://h/%({name})s")] {
            let endpoint = json!({ "endpoint": { "service_id": service, "interface": "public", "url": url } });
            let made = cloud.post(&admin, "/v3/endpoints", endpoint).await;
            assert!(matches!(made.status, 201 | 400), "{url}: {}", made.body);
        }
    }
    let catalogue = cloud.get(&admin, "/v3/auth/catalog").await.is(200).to_string();
    assert!(!catalogue.contains("http://h/"), "{catalogue}");
}

/// CVE-2018-14432: whoever had any token heard of all projects and domains.
pub async fn only_own_projects_are_listed(cloud: Cloud) {
    let admin = cloud.admin().await;
    let (mine, _) = (cloud.project(&admin, "mine", None).await, cloud.project(&admin, "other", None).await);
    let (_, token) = member(&cloud, &admin, "u", &mine).await;
    let stranger = cloud.user(&admin, "stranger").await;
    let nobody = cloud.login(user_by_id(&stranger), Value::Null).await.token;
    for below in ["/v3/OS-FEDERATION", "/v3/auth"] {
        let ids = async |token: &str, what: &str| {
            let listed = cloud.get(token, &format!("{below}/{what}")).await.is(200);
            listed[what].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(ids(&token, "projects").await, std::slice::from_ref(&mine), "{below}");
        assert_eq!(ids(&nobody, "projects").await, Vec::<String>::new(), "{below}");
        for token in [&token, &nobody] {
            assert_eq!(ids(token, "domains").await, Vec::<String>::new(), "{below}");
        }
    }
}

/// As in CVE-2015-7546, where a token that was changed a little was the same token and not revoked with it. Of each signature of ECDSA anybody can
/// make another one that holds.
#[tokio::test]
async fn a_signed_token_has_a_twin_that_is_void_with_it() {
    let cloud = Cloud::in_home(tempfile::tempdir().unwrap(), |config| config.set("token.provider", "jws")).await;
    let (admin, token) = (cloud.admin().await, cloud.admin().await);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let signature = Signature::from_slice(&URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    let (r, s) = signature.split_scalars();
    let twin = Signature::from_scalars(r, -s).unwrap();
    let twin = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(twin.to_bytes()));
    assert_ne!(twin, token);
    // Whether it is taken at all is not what counts.
    let before = cloud.validate(&admin, &twin).await.status;
    let headers = [("x-auth-token", admin.as_str()), ("x-subject-token", token.as_str())];
    cloud.send("DELETE", "/v3/auth/tokens", &headers, vec![]).await.is(204);
    cloud.validate(&admin, &token).await.fault(404);
    cloud.validate(&admin, &twin).await.fault(404);
    cloud.get(&twin, "/v3/users").await.fault(401);
    assert_eq!(before, 200, "it is a good signature: else this shows nothing");
}
