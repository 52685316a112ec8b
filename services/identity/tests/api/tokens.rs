//! The life of tokens: forged ones, revoked ones, old ones, old keys.

use std::time::{Duration, Instant, SystemTime};

use http_api::Authenticate;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::cloud::*;

pub async fn no_other_text_passes_for_a_token(cloud: Cloud) {
    let token = cloud.admin().await;
    for at in 0..token.len() {
        for with in ['A', '_', 'z', '=', ' ', '\u{e9}'] {
            let mut mutated: Vec<char> = token.chars().collect();
            if mutated[at] == with {
                continue;
            }
            mutated[at] = with;
            let mutated: String = mutated.into_iter().collect();
            assert!(cloud.identity.authenticate(&mutated).await.is_err(), "{mutated}");
        }
        assert!(cloud.identity.authenticate(&token[..at]).await.is_err());
        assert!(cloud.identity.authenticate(&token[at + 1..]).await.is_err());
    }
    for suffix in ["A", "=", "==", " ", "AAAA"] {
        assert!(cloud.identity.authenticate(&format!("{token}{suffix}")).await.is_err());
    }
    cloud.validate("nonsense", &token).await.fault(401);
    cloud.validate(&token, "nonsense").await.fault(404);
    cloud.get(&token, "/v3/auth/tokens").await.fault(404);
    // Whoever asks for another one with it hears the same, as upstream.
    let by = json!({ "auth": { "identity": { "methods": ["token"], "token": { "id": "nonsense" } } } });
    cloud.post("", "/v3/auth/tokens", by).await.fault(404);
    cloud.validate(&token, &token).await.is(200);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn arbitrary_text_is_refused(text in prop_oneof![".*", "[A-Za-z0-9_-]{0,400}", "gAAAAA[A-Za-z0-9_-]{0,300}"]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let cloud = Cloud::new().await;
            let error = cloud.identity.authenticate(&text).await.unwrap_err();
            assert_eq!(error.kind(), base::Kind::Unauthenticated);
        });
    }
}

#[tokio::test]
async fn a_revoked_token_is_void_and_others_are_not() {
    let cloud = Cloud::new().await;
    let (first, second) = (cloud.admin().await, cloud.admin().await);
    let headers = [("x-auth-token", first.as_str()), ("x-subject-token", first.as_str())];
    cloud.send("DELETE", "/v3/auth/tokens", &headers, vec![]).await.is(204);
    cloud.get(&first, "/v3/users").await.fault(401);
    cloud.validate(&second, &first).await.fault(404);
    cloud.get(&second, "/v3/users").await.is(200);
    // It stays so over a restart.
    let Cloud { home, store, identity, app, tasks, .. } = cloud;
    store.close().await;
    drop((identity, app, tasks));
    let cloud = Cloud::in_home(home, |_| {}).await;
    cloud.validate(&second, &first).await.fault(404);
}

/// A user with the role member on a project, and a token for it.
async fn member(cloud: &Cloud, admin: &str, name: &str, project: &str) -> (String, String) {
    let user = cloud.user(admin, name).await;
    let role = cloud.role(admin, "member").await;
    cloud.put(admin, &format!("/v3/projects/{project}/users/{user}/roles/{role}")).await.is(204);
    let token = cloud.login(user_by_id(&user), on_project(project)).await.token;
    (user, token)
}

/// CVE-2012-3426 and CVE-2013-2059: tokens outlived a change of the password, a disabled account, a deleted one.
pub async fn what_happens_to_a_user_happens_to_the_tokens(cloud: Cloud) {
    let admin = cloud.admin().await;
    let project = cloud.project(&admin, "p", None).await;

    let (user, token) = member(&cloud, &admin, "reset", &project).await;
    let reset = json!({ "user": { "password": "another" } });
    cloud.patch(&admin, &format!("/v3/users/{user}"), reset).await.is(200);
    cloud.validate(&admin, &token).await.fault(404);
    cloud.login(user_by_id(&user), Value::Null).await.fault(401);
    let again = cloud.login(json!({ "id": user, "password": "another" }), on_project(&project)).await;
    cloud.validate(&admin, &again.token).await.is(200);

    let (user, token) = member(&cloud, &admin, "changes", &project).await;
    let path = format!("/v3/users/{user}/password");
    let change = |old: &str| json!({ "user": { "original_password": old, "password": "another" } });
    cloud.post("", &path, change("wrong")).await.fault(401);
    cloud.validate(&admin, &token).await.is(200);
    cloud.post("", &path, change(PASSWORD)).await.is(204);
    cloud.validate(&admin, &token).await.fault(404);
    cloud.post("", &path, json!({ "user": { "password": "x" } })).await.fault(400);
    cloud.post("", "/v3/users/nobody/password", change(PASSWORD)).await.fault(401);
    cloud.patch(&admin, &format!("/v3/users/{user}"), json!({ "user": { "options": { "lock_password": true } } })).await.is(200);
    cloud.post("", &path, change("another")).await.fault(400);

    let (user, token) = member(&cloud, &admin, "disabled", &project).await;
    for enabled in [false, true] {
        cloud.patch(&admin, &format!("/v3/users/{user}"), json!({ "user": { "enabled": enabled } })).await.is(200);
        cloud.validate(&admin, &token).await.fault(404);
    }

    let (user, token) = member(&cloud, &admin, "deleted", &project).await;
    cloud.delete(&admin, &format!("/v3/users/{user}")).await.is(204);
    cloud.validate(&admin, &token).await.fault(404);
}

/// CVE-2012-4413 (a role taken back), CVE-2013-4222 (a disabled project), CVE-2014-5253 (a disabled domain): tokens stayed good.
pub async fn what_happens_to_a_scope_happens_to_its_tokens(cloud: Cloud) {
    let admin = cloud.admin().await;
    let project = cloud.project(&admin, "p", None).await;
    let (user, token) = member(&cloud, &admin, "u", &project).await;
    let unscoped = cloud.login(user_by_id(&user), json!("unscoped")).await.token;
    for enabled in [false, true] {
        cloud.patch(&admin, &format!("/v3/projects/{project}"), json!({ "project": { "enabled": enabled } })).await.is(200);
        cloud.validate(&admin, &token).await.fault(404);
        cloud.validate(&admin, &unscoped).await.is(200);
    }
    let token = cloud.login(user_by_id(&user), on_project(&project)).await.token;
    cloud.validate(&admin, &token).await.is(200);

    // Roles are looked up anew: one more shows, and none is the end.
    let (member, manager) = (cloud.role(&admin, "member").await, cloud.role(&admin, "manager").await);
    let grants = format!("/v3/projects/{project}/users/{user}/roles");
    cloud.put(&admin, &format!("{grants}/{manager}")).await.is(204);
    assert_eq!(cloud.validate(&admin, &token).await.is(200)["token"]["roles"][0]["name"], "manager");
    cloud.delete(&admin, &format!("{grants}/{manager}")).await.is(204);
    assert_eq!(cloud.validate(&admin, &token).await.is(200)["token"]["roles"][0]["name"], "member");
    cloud.delete(&admin, &format!("{grants}/{member}")).await.is(204);
    cloud.validate(&admin, &token).await.fault(404);

    // By a group, and out of the group.
    let group = id(&cloud.post(&admin, "/v3/groups", json!({ "group": { "name": "g" } })).await.is(201));
    cloud.put(&admin, &format!("/v3/projects/{project}/groups/{group}/roles/{member}")).await.is(204);
    cloud.put(&admin, &format!("/v3/groups/{group}/users/{user}")).await.is(204);
    let token = cloud.login(user_by_id(&user), on_project(&project)).await.token;
    cloud.validate(&admin, &token).await.is(200);
    cloud.delete(&admin, &format!("/v3/groups/{group}/users/{user}")).await.is(204);
    cloud.validate(&admin, &token).await.fault(404);

    // The domain of the user.
    let domain = id(&cloud.post(&admin, "/v3/domains", json!({ "domain": { "name": "d" } })).await.is(201));
    let other = json!({ "user": { "name": "x", "domain_id": domain, "password": PASSWORD } });
    let other = id(&cloud.post(&admin, "/v3/users", other).await.is(201));
    let token = cloud.login(user_by_id(&other), Value::Null).await.token;
    cloud.validate(&admin, &token).await.is(200);
    for enabled in [false, true] {
        cloud.patch(&admin, &format!("/v3/domains/{domain}"), json!({ "domain": { "enabled": enabled } })).await.is(200);
        cloud.validate(&admin, &token).await.fault(404);
    }
}

pub async fn the_catalogue_of_a_token_follows_the_catalogue(cloud: Cloud) {
    let admin = cloud.admin().await;
    let types = async || -> Vec<String> {
        let shown = cloud.validate(&admin, &admin).await.is(200);
        shown["token"]["catalog"].as_array().unwrap().iter().map(|s| s["type"].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(types().await, ["identity", "object-store"]);
    let service = id(&cloud.post(&admin, "/v3/services", json!({ "service": { "type": "dns" } })).await.is(201));
    assert_eq!(types().await, ["dns", "identity", "object-store"]);
    cloud.patch(&admin, &format!("/v3/services/{service}"), json!({ "service": { "enabled": false } })).await.is(200);
    assert_eq!(types().await, ["identity", "object-store"]);
}

#[tokio::test]
async fn an_expired_token_is_void_but_may_be_looked_at_for_a_while() {
    let cloud = Cloud::in_home(tempfile::tempdir().unwrap(), |config| config.set("token.lifetime_seconds", "1")).await;
    let token = cloud.admin().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while cloud.identity.authenticate(&token).await.is_ok() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let fresh = cloud.admin().await;
    let headers = [("x-auth-token", fresh.as_str()), ("x-subject-token", token.as_str())];
    cloud.send("GET", "/v3/auth/tokens?allow_expired=1", &headers, vec![]).await.is(200);
    cloud.send("GET", "/v3/auth/tokens?allow_expired=0", &headers, vec![]).await.fault(404);
}

#[tokio::test]
async fn old_keys_make_room_and_tokens_survive() {
    let cloud = Cloud::new().await;
    let token = cloud.admin().await;
    let keys = cloud.home.path().join("keys/token");
    let old = std::fs::File::options().write(true).open(keys.join("1")).unwrap();
    old.set_modified(SystemTime::now() - Duration::from_secs(2 * 86_400)).unwrap();
    let Cloud { home, store, identity, app, tasks, .. } = cloud;
    store.close().await;
    drop((identity, app, tasks));
    let cloud = Cloud::in_home(home, |_| {}).await;
    let staged = std::fs::read_to_string(keys.join("0")).unwrap();
    cloud.tasks.start().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::read_to_string(keys.join("0")).is_ok_and(|now| now == staged) {
        assert!(Instant::now() < deadline, "no rotation");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(std::fs::read_to_string(keys.join("2")).unwrap(), staged);
    cloud.validate(&token, &token).await.is(200);
    let fresh = cloud.admin().await;
    cloud.validate(&token, &fresh).await.is(200);
    cloud.tasks.stop().await;
}

#[tokio::test]
async fn tokens_can_be_signed_and_those_of_before_stay_good() {
    let cloud = Cloud::new().await;
    let sealed = cloud.admin().await;
    let Cloud { home, store, identity, app, tasks, .. } = cloud;
    store.close().await;
    drop((identity, app, tasks));
    let cloud = Cloud::in_home(home, |config| config.set("token.provider", "jws")).await;
    let signed = cloud.admin().await;
    assert_eq!((sealed.split('.').count(), signed.split('.').count()), (1, 3));
    cloud.validate(&signed, &sealed).await.is(200);
    let body = cloud.validate(&sealed, &signed).await.is(200);
    assert_eq!(body["token"]["methods"], json!(["password"]));
    let headers = [("x-auth-token", sealed.as_str()), ("x-subject-token", signed.as_str())];
    cloud.send("DELETE", "/v3/auth/tokens", &headers, vec![]).await.is(204);
    cloud.validate(&sealed, &signed).await.fault(404);
    cloud.get(&signed, "/v3/users").await.fault(401);
}

/// As in CVE-2012-5563: a chain of tokens, each got by the one before, ends with the first.
#[tokio::test]
async fn a_chain_of_tokens_lives_no_longer_than_its_first() {
    let cloud = Cloud::new().await;
    let first = cloud.login(admin_user(), json!("unscoped")).await;
    let (end, mut token) = (first.body["token"]["expires_at"].clone(), first.token);
    let chain = first.body["token"]["audit_ids"][0].clone();
    for scope in [admin_scope(), on_system(), admin_scope(), json!("unscoped")] {
        let auth = json!({ "auth": { "identity": { "methods": ["token"], "token": { "id": token } }, "scope": scope } });
        let next = cloud.post("", "/v3/auth/tokens", auth).await;
        assert_eq!(next.body["token"]["expires_at"], end);
        assert_eq!(next.body["token"]["audit_ids"][1], chain);
        token = next.token;
    }
}
