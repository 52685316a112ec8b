//! Application credentials, what they give, and what nobody gets by them.

use base::Timestamp;
use serde_json::{Value, json};

use crate::cloud::*;

/// A user with the roles `member` (which implies `reader`) and `extra` on a project.
struct Owner {
    admin: String,
    user: String,
    project: String,
    token: String,
    extra: String,
    member: String,
}

impl Owner {
    async fn of(cloud: &Cloud) -> Owner {
        let admin = cloud.admin().await;
        let (project, user) = (cloud.project(&admin, "p", None).await, cloud.user(&admin, "owner").await);
        let extra = id(&cloud.post(&admin, "/v3/roles", json!({ "role": { "name": "extra" } })).await.is(201));
        let member = cloud.role(&admin, "member").await;
        for role in [&extra, &member] {
            cloud.put(&admin, &format!("/v3/projects/{project}/users/{user}/roles/{role}")).await.is(204);
        }
        let token = cloud.login(user_by_id(&user), on_project(&project)).await.token;
        Owner { admin, user, project, token, extra, member }
    }

    fn path(&self) -> String {
        format!("/v3/users/{}/application_credentials", self.user)
    }

    fn one(&self, credential: &Value) -> String {
        format!("{}/{}", self.path(), credential["id"].as_str().unwrap())
    }

    async fn try_make(&self, cloud: &Cloud, token: &str, mut credential: Value) -> Answer {
        if credential.get("name").is_none() {
            credential["name"] = json!(base::id::hex());
        }
        cloud.post(token, &self.path(), json!({ "application_credential": credential })).await
    }

    async fn make(&self, cloud: &Cloud, credential: Value) -> Value {
        self.try_make(cloud, &self.token, credential).await.is(201)["application_credential"].clone()
    }
}

async fn by(cloud: &Cloud, credential: Value) -> Answer {
    let identity = json!({ "methods": ["application_credential"], "application_credential": credential });
    cloud.post("", "/v3/auth/tokens", json!({ "auth": { "identity": identity } })).await
}

async fn log_in(cloud: &Cloud, credential: &Value) -> Answer {
    by(cloud, json!({ "id": credential["id"], "secret": credential["secret"] })).await
}

async fn again(cloud: &Cloud, token: &str, scope: Value) -> Answer {
    let mut auth = json!({ "identity": { "methods": ["token"], "token": { "id": token } } });
    if !scope.is_null() {
        auth["scope"] = scope;
    }
    cloud.post("", "/v3/auth/tokens", json!({ "auth": auth })).await
}

fn names(roles: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = roles.as_array().unwrap().iter().map(|role| role["name"].as_str().unwrap()).collect();
    names.sort();
    names
}

pub async fn credentials_are_made_listed_and_deleted(cloud: Cloud) {
    let owner = Owner::of(&cloud).await;
    let end = Timestamp::now().plus(std::time::Duration::from_secs(3600));
    let wanted = json!({ "name": "first", "description": "d", "expires_at": end.iso_micros_z(), "roles": [{ "name": "member" }] });
    let made = owner.make(&cloud, wanted).await;
    assert_eq!(made["secret"].as_str().unwrap().len(), 86);
    assert_eq!(made["expires_at"], end.iso_micros());
    assert_eq!((&made["project_id"], &made["unrestricted"], &made["description"]), (&json!(owner.project), &json!(false), &json!("d")));
    assert_eq!(names(&made["roles"]), ["member", "reader"], "with what they imply");
    assert_eq!(made.get("access_rules"), None);
    let second = owner.make(&cloud, json!({ "name": "second", "secret": "chosen", "unrestricted": true })).await;
    assert_eq!((&second["secret"], &second["expires_at"], &second["unrestricted"]), (&json!("chosen"), &Value::Null, &json!(true)));
    assert_eq!(names(&second["roles"]), ["extra", "member", "reader"], "all of the token's");
    owner.try_make(&cloud, &owner.token, json!({ "name": "second" })).await.fault(409);

    let mut shown = cloud.get(&owner.token, &owner.one(&made)).await.is(200)["application_credential"].clone();
    assert_eq!(shown.get("secret"), None);
    shown["secret"] = made["secret"].clone();
    assert_eq!(shown, made);
    let all = cloud.get(&owner.token, &owner.path()).await.is(200);
    assert_eq!(all["application_credentials"].as_array().unwrap().len(), 2);
    let named = cloud.get(&owner.token, &format!("{}?name=first", owner.path())).await.is(200);
    assert_eq!(named["application_credentials"][0]["id"], made["id"]);
    let page = cloud.get(&owner.token, &format!("{}?limit=1", owner.path())).await.is(200);
    assert_eq!(page["application_credentials"].as_array().unwrap().len(), 1);
    assert!(page["links"]["next"].as_str().unwrap().contains("limit=1"));
    assert_eq!(cloud.ask(&owner.token, "HEAD", &owner.one(&made), Value::Null).await.status, 200);

    cloud.delete(&owner.token, &owner.one(&made)).await.is(204);
    cloud.get(&owner.token, &owner.one(&made)).await.fault(404);
    cloud.delete(&owner.token, &owner.one(&made)).await.fault(404);
    log_in(&cloud, &made).await.fault(401);
}

pub async fn bad_credentials_are_refused(cloud: Cloud) {
    let owner = Owner::of(&cloud).await;
    for wrong in [
        json!({ "name": "" }),
        json!({ "name": 1 }),
        json!({ "name": "x".repeat(256) }),
        json!({ "description": 1 }),
        json!({ "secret": 1 }),
        json!({ "secret": "x".repeat(4097) }),
        json!({ "expires_at": "tomorrow" }),
        json!({ "expires_at": "2020-01-01T00:00:00Z" }),
        json!({ "unrestricted": "yes" }),
        json!({ "system": "all" }),
        json!({ "other": 1 }),
        json!({ "roles": {} }),
        json!({ "roles": [{}] }),
        json!({ "roles": [{ "id": "x", "name": "member" }] }),
        json!({ "roles": [{ "name": "admin" }] }),
        json!({ "roles": [{ "id": "unknown" }] }),
        json!({ "access_rules": {} }),
        json!({ "access_rules": [1] }),
        json!({ "access_rules": [{ "path": "/", "method": "GET" }] }),
        json!({ "access_rules": [{ "path": "x", "method": "GET", "service": "compute" }] }),
        json!({ "access_rules": [{ "path": format!("/{}", "x".repeat(225)), "method": "GET", "service": "compute" }] }),
        json!({ "access_rules": [{ "path": "/", "method": "get", "service": "compute" }] }),
        json!({ "access_rules": [{ "path": "/", "method": "GET", "service": 1 }] }),
    ] {
        owner.try_make(&cloud, &owner.token, wrong.clone()).await.fault(400);
    }
    for wrong in [json!({ "roles": [{ "name": "unknown" }] }), json!({ "access_rules": [{ "id": "unknown" }] })] {
        owner.try_make(&cloud, &owner.token, wrong).await.fault(404);
    }
    cloud.post(&owner.token, &owner.path(), json!({ "application_credential": {} })).await.fault(400);
    cloud.post(&owner.token, &owner.path(), json!({})).await.fault(400);
    for auth in [
        json!({}),
        json!({ "id": "x" }),
        json!({ "secret": "x" }),
        json!({ "id": 1, "secret": "x" }),
        json!({ "name": "n", "secret": "x" }),
    ] {
        by(&cloud, auth).await.fault(400);
    }
}

pub async fn a_credential_gives_tokens(cloud: Cloud) {
    let owner = Owner::of(&cloud).await;
    let end = Timestamp::now().plus(std::time::Duration::from_secs(600));
    let made = owner.make(&cloud, json!({ "name": "made", "roles": [{ "id": owner.member }], "expires_at": end.iso_micros_z() })).await;
    let chosen = owner.make(&cloud, json!({ "name": "chosen", "secret": "s3cret" })).await;
    let answer = log_in(&cloud, &made).await;
    let token = answer.token.clone();
    let body = answer.is(201)["token"].clone();
    assert_eq!(body["methods"], json!(["application_credential"]));
    assert_eq!(body["application_credential"], json!({ "id": made["id"], "name": "made", "restricted": true }));
    assert_eq!((&body["user"]["id"], &body["project"]["id"]), (&json!(owner.user), &json!(owner.project)));
    assert_eq!(names(&body["roles"]), ["member", "reader"]);
    assert_eq!(body["expires_at"], format!("{}.000000Z", &end.iso_micros()[..19]), "no longer than the credential");
    assert!(body["catalog"].is_array());
    assert_eq!(cloud.validate(&owner.admin, &token).await.is(200)["token"], body);

    let user = || json!({ "name": "owner", "domain": { "name": "Default" } });
    for _ in 0..2 {
        for name in ["made", "chosen"] {
            let secret = if name == "made" { &made["secret"] } else { &chosen["secret"] };
            by(&cloud, json!({ "name": name, "user": user(), "secret": secret })).await.is(201);
            by(&cloud, json!({ "name": name, "user": { "id": owner.user }, "secret": secret })).await.is(201);
            by(&cloud, json!({ "name": name, "user": user(), "secret": "wrong" })).await.fault(401);
        }
    }
    for wrong in [
        json!({ "id": made["id"], "secret": "" }),
        json!({ "id": made["id"], "secret": chosen["secret"] }),
        json!({ "id": chosen["id"], "secret": "S3cret" }),
        json!({ "id": "unknown", "secret": made["secret"] }),
        json!({ "name": "unknown", "user": user(), "secret": made["secret"] }),
        json!({ "name": "made", "user": { "id": "unknown" }, "secret": made["secret"] }),
        json!({ "name": "made", "user": { "name": "admin", "domain": { "id": "default" } }, "secret": made["secret"] }),
    ] {
        by(&cloud, wrong).await.fault(401);
    }
}

/// As in CVE-2019-19687 and the escalations by delegation of CVE-2020-12689, -12690, -12691 and -12692.
pub async fn a_credential_is_not_stretched(cloud: Cloud) {
    let owner = Owner::of(&cloud).await;
    let other = cloud.project(&owner.admin, "other", None).await;
    cloud.put(&owner.admin, &format!("/v3/projects/{other}/users/{}/roles/{}", owner.user, owner.member)).await.is(204);
    let made = owner.make(&cloud, json!({ "roles": [{ "name": "member" }] })).await;
    let token = log_in(&cloud, &made).await.token;

    // It cannot choose a scope, not even with the owner's password beside it, and a token of its token is no wider.
    let identity =
        json!({ "methods": ["application_credential"], "application_credential": { "id": made["id"], "secret": made["secret"] } });
    for scope in [on_project(&owner.project), on_project(&other), json!("unscoped")] {
        cloud.post("", "/v3/auth/tokens", json!({ "auth": { "identity": identity, "scope": scope } })).await.fault(401);
    }
    let stranger = cloud.user(&owner.admin, "stranger").await;
    let two = json!({ "methods": ["application_credential", "password"], "password": { "user": user_by_id(&stranger) },
        "application_credential": { "id": made["id"], "secret": made["secret"] } });
    cloud.post("", "/v3/auth/tokens", json!({ "auth": { "identity": two } })).await.fault(401);
    // Whose it is counts, not whom the request names (CVE-2026-42998).
    let named = json!({ "id": made["id"], "secret": made["secret"], "user": { "id": stranger } });
    assert_eq!(by(&cloud, named).await.is(201)["token"]["user"]["id"], owner.user);

    for scope in [on_project(&other), json!("unscoped"), on_domain("default"), on_system()] {
        again(&cloud, &token, scope).await.fault(401);
    }
    for scope in [Value::Null, on_project(&owner.project)] {
        let answer = again(&cloud, &token, scope).await;
        let derived = answer.token.clone();
        let body = answer.is(201)["token"].clone();
        assert_eq!(body["methods"], json!(["token", "application_credential"]));
        assert_eq!(body["application_credential"]["id"], made["id"]);
        assert_eq!(names(&body["roles"]), ["member", "reader"]);
        owner.try_make(&cloud, &derived, json!({})).await.fault(403);
    }

    // Restricted: no more credentials of any kind, no trusts.
    owner.try_make(&cloud, &token, json!({})).await.fault(403);
    cloud.delete(&token, &owner.one(&made)).await.fault(403);
    cloud.get(&token, &owner.one(&made)).await.is(200);
    let ec2 = |project: &str| json!({ "credential": { "type": "ec2", "user_id": owner.user, "project_id": project, "blob": r#"{"access":"a","secret":"s"}"# } });
    cloud.post(&token, "/v3/credentials", ec2(&owner.project)).await.fault(403);
    let trust = json!({ "trust": { "trustor_user_id": owner.user, "trustee_user_id": stranger, "project_id": owner.project,
        "impersonation": true, "roles": [{ "name": "extra" }] } });
    cloud.post(&token, "/v3/OS-TRUST/trusts", trust.clone()).await.fault(403);

    // Unrestricted: credentials, with its own roles at most and for its own project; still no trusts (CVE-2026-43000).
    let free = owner.make(&cloud, json!({ "roles": [{ "name": "member" }], "unrestricted": true })).await;
    let free_token = log_in(&cloud, &free).await.token;
    owner.try_make(&cloud, &free_token, json!({ "roles": [{ "id": owner.extra }] })).await.fault(400);
    let child = owner.try_make(&cloud, &free_token, json!({})).await.is(201)["application_credential"].clone();
    assert_eq!(names(&child["roles"]), ["member", "reader"]);
    cloud.delete(&free_token, &owner.one(&child)).await.is(204);
    cloud.post(&free_token, "/v3/OS-TRUST/trusts", trust.clone()).await.fault(403);
    cloud.get(&free_token, &format!("/v3/OS-TRUST/trusts?trustor_user_id={}", owner.user)).await.fault(403);
    cloud.post(&free_token, "/v3/credentials", ec2(&other)).await.fault(403);
    let bound = cloud.post(&free_token, "/v3/credentials", ec2(&owner.project)).await.is(201)["credential"].clone();
    let blob: Value = serde_json::from_str(bound["blob"].as_str().unwrap()).unwrap();
    assert_eq!(blob["app_cred_id"], free["id"]);
    let unbound = json!({ "credential": { "blob": r#"{"access":"a","secret":"s"}"# } });
    cloud.patch(&owner.token, &format!("/v3/credentials/{}", bound["id"].as_str().unwrap()), unbound).await.fault(400);

    // What was lent gives no credential that would stay (CVE-2020-12691).
    let trust = id(&cloud.post(&owner.token, "/v3/OS-TRUST/trusts", trust).await.is(201));
    let lent = cloud.login(user_by_id(&stranger), json!({ "OS-TRUST:trust": { "id": trust } })).await.token;
    owner.try_make(&cloud, &lent, json!({})).await.fault(403);
    cloud.get(&lent, &owner.path()).await.fault(403);
    cloud.get(&lent, &owner.one(&made)).await.fault(403);
    cloud.delete(&lent, &owner.one(&made)).await.fault(403);
}

pub async fn who_may_see_credentials_and_rules(cloud: Cloud) {
    let owner = Owner::of(&cloud).await;
    let rule = json!({ "path": "/v2.1/servers", "method": "GET", "service": "compute" });
    let made = owner.make(&cloud, json!({ "access_rules": [rule] })).await;
    let stranger = cloud.user(&owner.admin, "stranger").await;
    cloud.put(&owner.admin, &format!("/v3/projects/{}/users/{stranger}/roles/{}", owner.project, owner.member)).await.is(204);
    let other = cloud.login(user_by_id(&stranger), on_project(&owner.project)).await.token;
    let reader = cloud.user(&owner.admin, "reader").await;
    let role = cloud.role(&owner.admin, "reader").await;
    cloud.put(&owner.admin, &format!("/v3/system/users/{reader}/roles/{role}")).await.is(204);
    let reader = cloud.login(user_by_id(&reader), on_system()).await.token;
    let rules = format!("/v3/users/{}/access_rules", owner.user);
    let rule = format!("{rules}/{}", made["access_rules"][0]["id"].as_str().unwrap());
    let system = cloud.login(admin_user(), on_system()).await.token;
    for (path, admins) in [(owner.path(), 200), (owner.one(&made), 200), (rules, 403), (rule.clone(), 403)] {
        cloud.get(&owner.token, &path).await.is(200);
        cloud.get(&reader, &path).await.is(200);
        cloud.get(&other, &path).await.fault(403);
        assert_eq!(cloud.get(&owner.admin, &path).await.status, admins, "{path}");
    }
    // By one's own path one does not get at what is another's.
    let id = made["id"].as_str().unwrap();
    cloud.get(&other, &format!("/v3/users/{stranger}/application_credentials/{id}")).await.fault(403);
    cloud.delete(&other, &format!("/v3/users/{stranger}/application_credentials/{id}")).await.fault(403);
    let rule_id = made["access_rules"][0]["id"].as_str().unwrap();
    cloud.get(&other, &format!("/v3/users/{stranger}/access_rules/{rule_id}")).await.fault(404);
    let theirs = json!({ "application_credential": { "name": "n", "access_rules": [{ "id": rule_id }] } });
    cloud.post(&other, &format!("/v3/users/{stranger}/application_credentials"), theirs).await.fault(404);

    for token in [&other, &owner.admin] {
        owner.try_make(&cloud, token, json!({})).await.fault(403);
    }
    owner.try_make(&cloud, &reader, json!({})).await.fault(403);
    for token in [&other, &reader] {
        cloud.delete(token, &owner.one(&made)).await.fault(403);
        cloud.delete(token, &rule).await.fault(403);
    }
    assert_eq!(cloud.delete(&system, &rule).await.fault(403), "May not delete access rule in use");
    cloud.delete(&owner.admin, &owner.one(&made)).await.is(204);
    cloud.delete(&owner.admin, &rule).await.fault(403);
    cloud.delete(&system, &rule).await.is(204);
    cloud.get(&owner.token, &rule).await.fault(404);
}

pub async fn access_rules_bound_what_a_token_does(cloud: Cloud) {
    let owner = Owner::of(&cloud).await;
    let rule = |method: &str, path: &str, service: &str| json!({ "method": method, "path": path, "service": service });
    let own = format!("/v3/users/{}/**", owner.user);
    let rules = json!([
        rule("GET", &own, "identity"),
        rule("GET", "/identity/v3/auth/projects", "identity"),
        rule("GET", "/v3/regions", "compute")
    ]);
    let made = owner.make(&cloud, json!({ "access_rules": rules, "unrestricted": true })).await;
    assert_eq!(made["access_rules"].as_array().unwrap().len(), 3);
    let answer = log_in(&cloud, &made).await;
    let token = answer.token.clone();
    assert_eq!(answer.is(201)["token"]["application_credential"]["access_rules"].as_array().unwrap().len(), 3);
    let inside = [owner.path(), format!("/v3/users/{}/access_rules", owner.user), "/identity/v3/auth/projects".into()];
    for path in &inside {
        cloud.get(&token, path).await.is(200);
    }
    cloud.get(&token, &format!("/identity{}", owner.path())).await.is(200);
    // Every other request, another method, the rule of another service, and what is no resource at all.
    for path in
        ["/v3/auth/projects", "/v3/auth/catalog", "/v3/regions", "/identity/v3/nothing", "/metrics", &format!("/v3/users/{}", owner.user)]
    {
        cloud.get(&token, path).await.fault(401);
    }
    assert_eq!(cloud.ask(&token, "HEAD", &owner.path(), Value::Null).await.status, 401);
    owner.try_make(&cloud, &token, json!({})).await.fault(401);
    cloud.delete(&token, &owner.one(&made)).await.fault(401);
    // Whoever it is shown to may ask what it is; and it asks so itself.
    cloud.validate(&token, &token).await.is(200);
    // A token of the token is bound as well.
    let derived = again(&cloud, &token, Value::Null).await.token;
    cloud.get(&derived, "/v3/auth/projects").await.fault(401);
    cloud.get(&derived, &inside[0]).await.is(200);

    // Another service keeps to them as well, and knows its own from those of others.
    for (path, service, open) in [
        ("/v2.1/servers/{server_id}", "compute", true),
        ("/compute/v2.1/servers/*", "compute", true),
        ("/v2.1/servers/*", "identity", false),
        ("/v2.1/servers/*/action", "compute", false),
    ] {
        let made = owner.make(&cloud, json!({ "access_rules": [rule("GET", path, service)] })).await;
        let token = log_in(&cloud, &made).await.token;
        assert_eq!(cloud.get(&token, "/compute/v2.1/servers/x").await.status, if open { 200 } else { 401 }, "{path}");
        cloud.get(&token, "/compute/v2.1/servers").await.fault(401);
        assert_eq!(cloud.get(&token, "/compute/v2.1/servers/x/action").await.status, 405);
        cloud.post(&token, "/compute/v2.1/servers/x/action", Value::Null).await.fault(401);
        cloud.get(&token, &owner.path()).await.fault(401);
    }
    assert_eq!(cloud.get(&owner.token, "/compute/v2.1/servers/x").await.status, 200);

    // The same rule is there once, and can be named by its id.
    let first = made["access_rules"].as_array().unwrap().iter().find(|rule| rule["path"] == json!(own)).unwrap().clone();
    let next = owner.make(&cloud, json!({ "access_rules": [rule("GET", &own, "identity"), { "id": first["id"] }] })).await;
    assert_eq!(next["access_rules"], json!([first]));
    let path = format!("/v3/users/{}/access_rules", owner.user);
    assert_eq!(cloud.get(&owner.token, &path).await.is(200)["access_rules"].as_array().unwrap().len(), 7);
    let found = cloud.get(&owner.token, &format!("{path}?service=compute&path=/v3/regions")).await.is(200);
    assert_eq!(found["access_rules"][0]["path"], "/v3/regions");
    assert_eq!(found["access_rules"].as_array().unwrap().len(), 1);
}

pub async fn a_credential_goes_with_what_it_stands_on(cloud: Cloud) {
    let owner = Owner::of(&cloud).await;
    let admin = &owner.admin;
    let gone = async |credential: &Value, token: &str| {
        cloud.validate(admin, token).await.fault(404);
        log_in(&cloud, credential).await.fault(401);
        cloud.get(admin, &owner.one(credential)).await.fault(404);
    };
    // A role that only one of two credentials has.
    let (one, two) = (
        owner.make(&cloud, json!({ "roles": [{ "id": owner.extra }] })).await,
        owner.make(&cloud, json!({ "roles": [{ "name": "member" }] })).await,
    );
    let (first, second) = (log_in(&cloud, &one).await.token, log_in(&cloud, &two).await.token);
    let grant = format!("/v3/projects/{}/users/{}/roles", owner.project, owner.user);
    cloud.delete(admin, &format!("{grant}/{}", owner.extra)).await.is(204);
    gone(&one, &first).await;
    cloud.validate(admin, &second).await.is(200);
    // It does not come back with the role.
    cloud.put(admin, &format!("{grant}/{}", owner.extra)).await.is(204);
    gone(&one, &first).await;

    // Roles by a group; the group; an implied role; the role itself.
    let group = id(&cloud.post(admin, "/v3/groups", json!({ "group": { "name": "g" } })).await.is(201));
    let by_group = id(&cloud.post(admin, "/v3/roles", json!({ "role": { "name": "by-group" } })).await.is(201));
    cloud.put(admin, &format!("/v3/projects/{}/groups/{group}/roles/{by_group}", owner.project)).await.is(204);
    cloud.put(admin, &format!("/v3/groups/{group}/users/{}", owner.user)).await.is(204);
    let make = async |role: &str| {
        let token = cloud.login(user_by_id(&owner.user), on_project(&owner.project)).await.token;
        let made = owner.try_make(&cloud, &token, json!({ "roles": [{ "name": role }] })).await.is(201)["application_credential"].clone();
        let token = log_in(&cloud, &made).await.token;
        (made, token)
    };
    let (made, token) = make("by-group").await;
    cloud.delete(admin, &format!("/v3/groups/{group}/users/{}", owner.user)).await.is(204);
    gone(&made, &token).await;
    cloud.put(admin, &format!("/v3/groups/{group}/users/{}", owner.user)).await.is(204);
    let (made, token) = make("by-group").await;
    cloud.delete(admin, &format!("/v3/projects/{}/groups/{group}/roles/{by_group}", owner.project)).await.is(204);
    gone(&made, &token).await;
    cloud.put(admin, &format!("/v3/projects/{}/groups/{group}/roles/{by_group}", owner.project)).await.is(204);
    let (made, token) = make("by-group").await;
    cloud.delete(admin, &format!("/v3/groups/{group}")).await.is(204);
    gone(&made, &token).await;
    cloud.put(admin, &format!("/v3/roles/{}/implies/{by_group}", owner.extra)).await.is(201);
    let (made, token) = make("by-group").await;
    cloud.delete(admin, &format!("/v3/roles/{}/implies/{by_group}", owner.extra)).await.is(204);
    gone(&made, &token).await;
    let (made, token) = make("extra").await;
    cloud.delete(admin, &format!("/v3/roles/{}", owner.extra)).await.is(204);
    gone(&made, &token).await;

    // The user, disabled: also when it is enabled again.
    let (made, token) = make("member").await;
    for enabled in [false, true] {
        cloud.patch(admin, &format!("/v3/users/{}", owner.user), json!({ "user": { "enabled": enabled } })).await.is(200);
    }
    gone(&made, &token).await;
    // The project; then the user.
    let (made, token) = make("member").await;
    cloud.delete(admin, &format!("/v3/projects/{}", owner.project)).await.is(204);
    gone(&made, &token).await;
    cloud.delete(admin, &format!("/v3/users/{}", owner.user)).await.is(204);
    log_in(&cloud, &made).await.fault(401);
}

/// As in CVE-2022-2447, where a token outlived its credential.
pub async fn a_credential_ends(cloud: Cloud) {
    let owner = Owner::of(&cloud).await;
    let end = Timestamp::now().plus(std::time::Duration::from_secs(2));
    let made = owner.make(&cloud, json!({ "expires_at": end.iso_micros_z() })).await;
    let token = log_in(&cloud, &made).await.token;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while log_in(&cloud, &made).await.status == 201 || cloud.validate(&owner.admin, &token).await.status == 200 {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    while Timestamp::now() < end {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    cloud.get(&owner.token, &owner.one(&made)).await.is(200);
    cloud.tasks.start().await.unwrap();
    while cloud.get(&owner.token, &owner.one(&made)).await.status == 200 {
        assert!(std::time::Instant::now() < deadline, "not forgotten");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    cloud.tasks.stop().await;
}
