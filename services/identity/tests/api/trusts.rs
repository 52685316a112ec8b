//! Trusts, and the tokens they give.

use base::Timestamp;
use serde_json::{Value, json};

use crate::cloud::*;

const TRUSTS: &str = "/v3/OS-TRUST/trusts";

/// A trustor with the roles `member` and `lent` on a project, and two who get trusts.
struct People {
    admin: String,
    project: String,
    trustor: String,
    /// Of the trustor, on the project.
    token: String,
    trustee: String,
    third: String,
    lent: String,
    member: String,
}

impl People {
    async fn of(cloud: &Cloud) -> People {
        let admin = cloud.admin().await;
        let project = cloud.project(&admin, "p", None).await;
        let trustor = cloud.user(&admin, "trustor").await;
        let lent = id(&cloud.post(&admin, "/v3/roles", json!({ "role": { "name": "lent" } })).await.is(201));
        let member = cloud.role(&admin, "member").await;
        for role in [&lent, &member] {
            cloud.put(&admin, &format!("/v3/projects/{project}/users/{trustor}/roles/{role}")).await.is(204);
        }
        let token = cloud.login(user_by_id(&trustor), on_project(&project)).await.token;
        let (trustee, third) = (cloud.user(&admin, "trustee").await, cloud.user(&admin, "third").await);
        People { admin, project, trustor, token, trustee, third, lent, member }
    }

    /// A request for a trust with the role `lent`; `more` overrides.
    fn wanted(&self, more: Value) -> Value {
        let mut trust = json!({ "trustor_user_id": self.trustor, "trustee_user_id": self.trustee, "project_id": self.project,
            "impersonation": true, "roles": [{ "name": "lent" }] });
        for (name, value) in more.as_object().unwrap() {
            trust[name] = value.clone();
        }
        json!({ "trust": trust })
    }

    async fn make(&self, cloud: &Cloud, more: Value) -> Value {
        cloud.post(&self.token, TRUSTS, self.wanted(more)).await.is(201)["trust"].clone()
    }
}

fn by(trust: &Value) -> Value {
    json!({ "OS-TRUST:trust": { "id": trust["id"] } })
}

fn path(trust: &Value) -> String {
    format!("{TRUSTS}/{}", trust["id"].as_str().unwrap())
}

fn later(seconds: u64) -> String {
    Timestamp::now().plus(std::time::Duration::from_secs(seconds)).iso_micros_z()
}

pub async fn trusts_are_made_listed_and_deleted(cloud: Cloud) {
    let people = People::of(&cloud).await;
    let end = later(3600);
    let more = json!({ "expires_at": end, "remaining_uses": 5, "note": "mine" });
    let trust = people.make(&cloud, more.clone()).await;
    let path = path(&trust);
    let role = cloud.get(&people.admin, &format!("/v3/roles/{}", people.lent)).await.is(200)["role"].clone();
    let whole = json!({
        "id": trust["id"], "trustor_user_id": people.trustor, "trustee_user_id": people.trustee, "project_id": people.project,
        "impersonation": true, "expires_at": end, "remaining_uses": 5, "redelegated_trust_id": null, "redelegation_count": 0,
        "deleted_at": null, "note": "mine", "roles": [role],
        "links": { "self": format!("http://cloud{path}") },
        "roles_links": { "self": format!("http://cloud{path}/roles"), "next": null, "previous": null },
    });
    assert_eq!(trust, whole);
    cloud.post(&people.token, TRUSTS, people.wanted(more)).await.fault(409);

    let roles = format!("{path}/roles");
    // The trustee may have no project at all.
    let nowhere = cloud.login(user_by_id(&people.trustee), json!("unscoped")).await.token;
    cloud.get(&nowhere, &path).await.is(200);
    let nobody = cloud.login(user_by_id(&people.third), json!("unscoped")).await.token;
    cloud.get(&nobody, &path).await.fault(403);
    for user in [&people.trustee, &people.third] {
        cloud.put(&people.admin, &format!("/v3/projects/{}/users/{user}/roles/{}", people.project, people.member)).await.is(204);
    }
    let trustee = cloud.login(user_by_id(&people.trustee), on_project(&people.project)).await.token;
    let third = cloud.login(user_by_id(&people.third), on_project(&people.project)).await.token;
    for token in [&people.token, &trustee, &people.admin] {
        assert_eq!(cloud.get(token, &path).await.is(200)["trust"], whole);
        let listed = cloud.get(token, &roles).await.is(200);
        assert_eq!(listed, json!({ "roles": [role], "links": whole["roles_links"] }));
        assert_eq!(cloud.get(token, &format!("{roles}/{}", people.lent)).await.is(200), json!({ "role": role }));
        for method in ["GET", "HEAD"] {
            assert_eq!(cloud.ask(token, method, &format!("{roles}/{}", people.member), Value::Null).await.status, 404);
            assert_eq!(cloud.ask(token, method, &format!("{roles}/{}", people.lent), Value::Null).await.status, 200);
            assert_eq!(cloud.ask(token, method, &roles, Value::Null).await.status, 200);
        }
    }
    for path in [path.clone(), roles.clone(), format!("{roles}/{}", people.lent)] {
        cloud.get(&third, &path).await.fault(403);
    }
    cloud.get(&third, "/v3/OS-TRUST/trusts/none").await.fault(404);
    for method in ["PATCH", "PUT"] {
        cloud.ask(&people.token, method, &path, json!({ "trust": {} })).await.fault(405);
    }

    let other = people.make(&cloud, json!({ "trustee_user_id": people.third })).await;
    let ids = async |token: &str, query: &str| -> Vec<Value> {
        let listed = cloud.get(token, &format!("{TRUSTS}{query}")).await.is(200);
        assert!(listed["trusts"].as_array().unwrap().iter().all(|trust| trust.get("roles").is_none()));
        listed["trusts"].as_array().unwrap().iter().map(|trust| trust["id"].clone()).collect()
    };
    let mut both = vec![trust["id"].clone(), other["id"].clone()];
    both.sort_by_key(Value::to_string);
    let (gave, got) = (format!("?trustor_user_id={}", people.trustor), format!("?trustee_user_id={}", people.trustee));
    assert_eq!(ids(&people.admin, "").await, both);
    assert_eq!(ids(&people.admin, "?limit=1").await, both[..1]);
    assert_eq!(ids(&people.token, &gave).await, both);
    assert_eq!(ids(&trustee, &got).await, [trust["id"].clone()]);
    assert_eq!(ids(&people.token, &format!("?trustee_user_id={}", people.trustor)).await, Vec::<Value>::new());
    for (token, query) in [(&people.token, ""), (&people.token, got.as_str()), (&trustee, gave.as_str()), (&third, got.as_str())] {
        cloud.get(token, &format!("{TRUSTS}{query}")).await.fault(403);
    }

    cloud.delete(&trustee, &path).await.fault(403);
    cloud.delete(&people.token, &path).await.is(204);
    cloud.get(&people.token, &path).await.fault(404);
    cloud.delete(&people.token, &path).await.fault(404);
    // They go with a user and with the project.
    cloud.delete(&people.admin, &format!("/v3/users/{}", people.third)).await.is(204);
    assert_eq!(ids(&people.admin, "").await, Vec::<Value>::new());
    people.make(&cloud, json!({})).await;
    cloud.delete(&people.admin, &format!("/v3/projects/{}", people.project)).await.is(204);
    assert_eq!(ids(&people.admin, "").await, Vec::<Value>::new());
    let left = cloud.store.read(|tx| tx.query("SELECT trust_id FROM trust_role", &[], |row| row.text(0))).await.unwrap();
    assert_eq!(left, Vec::<String>::new());
}

pub async fn who_may_not_make_a_trust(cloud: Cloud) {
    let people = People::of(&cloud).await;
    let make = async |more: Value| cloud.post(&people.token, TRUSTS, people.wanted(more)).await;
    for bad in [
        json!({ "trustor_user_id": null }),
        json!({ "trustee_user_id": 1 }),
        json!({ "impersonation": null }),
        json!({ "impersonation": "yes" }),
        json!({ "remaining_uses": 0 }),
        json!({ "remaining_uses": -1 }),
        json!({ "remaining_uses": 7.2 }),
        json!({ "remaining_uses": "many" }),
        json!({ "remaining_uses": u64::MAX }),
        json!({ "redelegation_count": -1 }),
        json!({ "allow_redelegation": "yes" }),
        json!({ "allow_redelegation": true, "remaining_uses": 1 }),
        json!({ "expires_at": "bad.123Z" }),
        json!({ "expires_at": "" }),
        json!({ "expires_at": "Z" }),
        json!({ "expires_at": 5 }),
        json!({ "expires_at": "2010-06-04T08:44:31.999999Z" }),
        json!({ "roles": "lent" }),
        json!({ "roles": [{}] }),
        json!({ "roles": [{ "id": people.lent, "name": "lent" }] }),
        json!({ "roles": [{ "fake": "x" }] }),
        json!({ "roles": ["lent"] }),
    ] {
        make(bad).await.fault(400);
    }
    for bad in [json!({}), json!({ "trust": [] }), json!({ "trust": {}, "more": 1 })] {
        cloud.post(&people.token, TRUSTS, bad).await.fault(400);
    }
    for gone in [
        json!({ "trustee_user_id": "nobody" }),
        json!({ "project_id": "none" }),
        json!({ "roles": [{ "id": "none" }] }),
        json!({ "roles": [{ "name": "none" }] }),
        // A role that the trustor does not have, and one without a project.
        json!({ "roles": [{ "name": "admin" }] }),
        json!({ "project_id": null }),
    ] {
        make(gone).await.fault(404);
    }
    make(json!({ "roles": [] })).await.fault(403);
    make(json!({ "redelegation_count": 4, "allow_redelegation": true })).await.fault(403);
    make(json!({ "redelegated_trust_id": "another" })).await.fault(403);
    // Nobody gives away what is another's, not even an administrator.
    make(json!({ "trustor_user_id": people.trustee, "trustee_user_id": people.trustor })).await.fault(403);
    cloud.post(&people.admin, TRUSTS, people.wanted(json!({}))).await.fault(403);
    // Two roles of one name.
    let domain = id(&cloud.post(&people.admin, "/v3/domains", json!({ "domain": { "name": "d" } })).await.is(201));
    cloud.post(&people.admin, "/v3/roles", json!({ "role": { "name": "lent", "domain_id": domain } })).await.is(201);
    make(json!({})).await.fault(400);
    let trust = people.make(&cloud, json!({ "roles": [{ "id": people.lent }, { "id": people.lent }] })).await;
    assert_eq!(trust["roles"].as_array().unwrap().len(), 1);
    // Without a project there is a trust, but no token.
    let bare = people.make(&cloud, json!({ "project_id": null, "roles": [] })).await;
    cloud.login(user_by_id(&people.trustee), by(&bare)).await.fault(401);
}

/// As in CVE-2014-3520, where the trustee chose another project of the trustor.
pub async fn a_trust_gives_tokens(cloud: Cloud) {
    let people = People::of(&cloud).await;
    for impersonation in [true, false] {
        let trust = people.make(&cloud, json!({ "impersonation": impersonation })).await;
        let answer = cloud.login(user_by_id(&people.trustee), by(&trust)).await;
        let token = answer.token.clone();
        let body = answer.is(201)["token"].clone();
        let (acting, name) = if impersonation { (&people.trustor, "trustor") } else { (&people.trustee, "trustee") };
        assert_eq!(body["user"]["id"], json!(acting));
        assert_eq!(body["user"]["name"], name);
        assert_eq!(body["project"], json!({ "id": people.project, "name": "p", "domain": { "id": "default", "name": "Default" } }));
        assert_eq!(body["roles"], json!([{ "id": people.lent, "name": "lent" }]));
        assert_eq!(body["methods"], json!(["password"]));
        assert!(!body["catalog"].as_array().unwrap().is_empty());
        assert_eq!(
            body["OS-TRUST:trust"],
            json!({ "id": trust["id"], "trustor_user": { "id": people.trustor }, "trustee_user": { "id": people.trustee },
                    "impersonation": impersonation })
        );
        assert_eq!(cloud.validate(&people.admin, &token).await.is(200)["token"], body);
        assert_eq!(cloud.validate(&token, &token).await.is(200)["token"], body);
        cloud.get(&token, &format!("/v3/users/{acting}")).await.is(200);
        cloud.get(&token, "/v3/users").await.fault(403);
        // It makes no other token, of no scope.
        for scope in [json!("unscoped"), on_project(&people.project), by(&trust)] {
            let identity = json!({ "methods": ["token"], "token": { "id": token } });
            cloud.post("", "/v3/auth/tokens", json!({ "auth": { "identity": identity, "scope": scope } })).await.fault(403);
        }
        // Deleted, it gives none, and those it gave are void.
        cloud.delete(&people.token, &path(&trust)).await.is(204);
        cloud.validate(&people.admin, &token).await.fault(404);
        cloud.get(&token, &format!("/v3/users/{acting}")).await.fault(401);
        cloud.login(user_by_id(&people.trustee), by(&trust)).await.fault(401);
    }
    let trust = people.make(&cloud, json!({})).await;
    cloud.login(user_by_id(&people.third), by(&trust)).await.fault(403);
    cloud.login(user_by_id(&people.trustor), by(&trust)).await.fault(403);
    for bad in [json!({}), json!({ "id": 1 }), json!({ "id": "" }), json!([])] {
        cloud.login(user_by_id(&people.trustee), json!({ "OS-TRUST:trust": bad })).await.fault(400);
    }
    cloud.login(user_by_id(&people.trustee), json!({ "OS-TRUST:trust": { "id": "none" } })).await.fault(401);
    let both = json!({ "OS-TRUST:trust": { "id": trust["id"] }, "project": { "id": people.project } });
    cloud.login(user_by_id(&people.trustee), both).await.fault(400);
    // A login with a token of another scope is as good as one with a password.
    let unscoped = cloud.login(user_by_id(&people.trustee), json!("unscoped")).await.token;
    let identity = json!({ "methods": ["token"], "token": { "id": unscoped } });
    let answer = cloud.post("", "/v3/auth/tokens", json!({ "auth": { "identity": identity, "scope": by(&trust) } })).await.is(201);
    assert_eq!(answer["token"]["user"]["id"], json!(people.trustor));
}

pub async fn uses_are_counted(cloud: Cloud) {
    let people = People::of(&cloud).await;
    let trust = people.make(&cloud, json!({ "remaining_uses": 2 })).await;
    let path = path(&trust);
    cloud.login(json!({ "id": people.trustee, "password": "wrong" }), by(&trust)).await.fault(401);
    cloud.login(user_by_id(&people.third), by(&trust)).await.fault(403);
    assert_eq!(cloud.get(&people.token, &path).await.is(200)["trust"]["remaining_uses"], 2);
    let first = cloud.login(user_by_id(&people.trustee), by(&trust)).await;
    assert_eq!(first.status, 201);
    assert_eq!(cloud.get(&people.token, &path).await.is(200)["trust"]["remaining_uses"], 1);
    // Of two who want the last one, one gets it.
    let (a, b) = tokio::join!(cloud.login(user_by_id(&people.trustee), by(&trust)), cloud.login(user_by_id(&people.trustee), by(&trust)));
    let mut statuses = [a.status, b.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 401]);
    let last = if a.status == 201 { a.token } else { b.token };
    cloud.get(&people.token, &path).await.fault(404);
    cloud.login(user_by_id(&people.trustee), by(&trust)).await.fault(401);
    // What was given stays good, until the trust goes.
    cloud.validate(&people.admin, &last).await.is(200);
    cloud.delete(&people.token, &path).await.is(204);
    cloud.validate(&people.admin, &last).await.fault(404);
}

/// As in CVE-2014-2237, where tokens outlived their trust.
pub async fn a_trust_holds_no_longer_than_what_it_stands_on(cloud: Cloud) {
    let people = People::of(&cloud).await;
    let trust = people.make(&cloud, json!({})).await;
    let login = async || cloud.login(user_by_id(&people.trustee), by(&trust)).await;
    let grant = format!("/v3/projects/{}/users/{}/roles/{}", people.project, people.trustor, people.lent);
    let token = login().await.token;
    cloud.delete(&people.admin, &grant).await.is(204);
    cloud.validate(&people.admin, &token).await.fault(404);
    login().await.fault(403);
    cloud.put(&people.admin, &grant).await.is(204);
    cloud.validate(&people.admin, &token).await.is(200);
    // Each switched off and on again: new tokens when it is on, the old one never again.
    for (what, path, off) in [
        ("user", format!("/v3/users/{}", people.trustor), 403),
        ("user", format!("/v3/users/{}", people.trustee), 401),
        ("project", format!("/v3/projects/{}", people.project), 401),
    ] {
        let token = login().await.token;
        cloud.validate(&people.admin, &token).await.is(200);
        cloud.patch(&people.admin, &path, json!({ what: { "enabled": false } })).await.is(200);
        cloud.validate(&people.admin, &token).await.fault(404);
        login().await.fault(off);
        cloud.patch(&people.admin, &path, json!({ what: { "enabled": true } })).await.is(200);
        cloud.validate(&people.admin, &token).await.fault(404);
        assert_eq!(login().await.status, 201, "{path}");
    }
    // What revokes the trustor's tokens revokes these.
    let token = login().await.token;
    let reset = json!({ "user": { "password": PASSWORD } });
    cloud.patch(&people.admin, &format!("/v3/users/{}", people.trustor), reset).await.is(200);
    cloud.validate(&people.admin, &token).await.fault(404);
    // A token alone can be revoked; the trust stays.
    let (one, two) = (login().await.token, login().await.token);
    let headers = [("x-auth-token", one.as_str()), ("x-subject-token", one.as_str())];
    cloud.send("DELETE", "/v3/auth/tokens", &headers, vec![]).await.is(204);
    cloud.validate(&people.admin, &one).await.fault(404);
    cloud.validate(&people.admin, &two).await.is(200);

    // A trust ends, and its token with it.
    let trustor = cloud.login(user_by_id(&people.trustor), on_project(&people.project)).await.token;
    let end = later(2);
    let short = cloud.post(&trustor, TRUSTS, people.wanted(json!({ "expires_at": end }))).await.is(201)["trust"].clone();
    let answer = cloud.login(user_by_id(&people.trustee), by(&short)).await;
    let token = answer.token.clone();
    // Tokens end with a whole second.
    let end = format!("{}.000000Z", &end[..19]);
    assert_eq!(answer.is(201)["token"]["expires_at"], json!(end));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while cloud.validate(&people.admin, &token).await.status == 200 {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(later(0) >= end);
    cloud.validate(&people.admin, &token).await.fault(404);
    cloud.login(user_by_id(&people.trustee), by(&short)).await.fault(401);
    while cloud.get(&trustor, &path(&short)).await.status == 200 {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    cloud.login(user_by_id(&people.trustee), by(&short)).await.fault(401);
    cloud.get(&trustor, &path(&short)).await.fault(404);
    // A role that is gone takes the whole trust with it.
    let token = login().await.token;
    cloud.validate(&people.admin, &token).await.is(200);
    cloud.delete(&people.admin, &format!("/v3/roles/{}", people.lent)).await.is(204);
    cloud.validate(&people.admin, &token).await.fault(404);
    login().await.fault(403);
    assert_eq!(cloud.get(&trustor, &path(&trust)).await.is(200)["trust"]["roles"], json!([]));
}

/// As in CVE-2014-3476, where who got a trust from a trustee got all that the trustor may.
pub async fn a_trust_is_handed_on(cloud: Cloud) {
    let people = People::of(&cloud).await;
    let end = later(3600);
    let both = json!([{ "name": "lent" }, { "name": "member" }]);
    let first = people.make(&cloud, json!({ "allow_redelegation": true, "expires_at": end, "roles": both })).await;
    assert_eq!(first["redelegation_count"], 3);
    assert!(first.get("allow_redelegation").is_none());
    let token = cloud.login(user_by_id(&people.trustee), by(&first)).await.token;
    let hand_on = async |more: Value| {
        let mut wanted = people.wanted(json!({ "trustee_user_id": people.third }));
        for (name, value) in more.as_object().unwrap() {
            wanted["trust"][name] = value.clone();
        }
        cloud.post(&token, TRUSTS, wanted).await
    };
    hand_on(json!({ "expires_at": later(7200) })).await.fault(403);
    hand_on(json!({ "remaining_uses": 5 })).await.fault(403);
    hand_on(json!({ "allow_redelegation": true, "redelegation_count": 1 })).await.fault(403);
    hand_on(json!({ "redelegated_trust_id": "another" })).await.fault(403);
    hand_on(json!({ "roles": [{ "name": "admin" }] })).await.fault(404);
    let second = hand_on(json!({ "allow_redelegation": true })).await.is(201)["trust"].clone();
    assert_eq!(second["redelegated_trust_id"], first["id"]);
    assert_eq!(second["redelegation_count"], 2);
    assert_eq!(second["expires_at"], json!(end), "that of the first");
    assert_eq!(second["roles"].as_array().unwrap().len(), 1);
    let login = cloud.login(user_by_id(&people.third), by(&second)).await;
    let last = login.token.clone();
    assert_eq!(login.is(201)["token"]["user"]["id"], json!(people.trustor));
    // Less was handed on, so more cannot be handed on from there; and it ends where it is said to end.
    let wanted = people.wanted(json!({ "trustee_user_id": people.trustee, "roles": both }));
    cloud.post(&last, TRUSTS, wanted).await.fault(403);
    let wanted = people.wanted(json!({ "trustee_user_id": people.trustee, "redelegation_count": 1, "expires_at": later(1800) }));
    let end_of_chain = cloud.post(&last, TRUSTS, wanted.clone()).await.is(201)["trust"].clone();
    assert_eq!(end_of_chain["redelegation_count"], 0);
    let end_token = cloud.login(user_by_id(&people.trustee), by(&end_of_chain)).await.token;
    cloud.post(&end_token, TRUSTS, wanted).await.fault(403);

    // Who is in the chain must stay enabled.
    cloud.patch(&people.admin, &format!("/v3/users/{}", people.trustee), json!({ "user": { "enabled": false } })).await.is(200);
    cloud.validate(&people.admin, &last).await.fault(404);
    cloud.login(user_by_id(&people.third), by(&second)).await.fault(403);
    cloud.get(&people.token, &path(&second)).await.fault(403);
    cloud.patch(&people.admin, &format!("/v3/users/{}", people.trustee), json!({ "user": { "enabled": true } })).await.is(200);
    let last = cloud.login(user_by_id(&people.third), by(&second)).await.token;
    cloud.validate(&people.admin, &last).await.is(200);
    // All that was handed on goes with the first.
    cloud.delete(&people.token, &path(&first)).await.is(204);
    cloud.validate(&people.admin, &last).await.fault(404);
    assert_eq!(cloud.get(&people.admin, TRUSTS).await.is(200)["trusts"], json!([]));

    // Without impersonation the trustee hands on in the own name, and says which trust it is.
    let first = people.make(&cloud, json!({ "impersonation": false, "allow_redelegation": true })).await;
    let token = cloud.login(user_by_id(&people.trustee), by(&first)).await.token;
    let own = json!({ "trustor_user_id": people.trustee, "trustee_user_id": people.third, "impersonation": false });
    cloud.post(&token, TRUSTS, people.wanted(own.clone())).await.fault(404);
    let mut said = people.wanted(own);
    said["trust"]["redelegated_trust_id"] = first["id"].clone();
    let mut as_another = said.clone();
    as_another["trust"]["impersonation"] = json!(true);
    cloud.post(&token, TRUSTS, as_another).await.fault(403);
    let second = cloud.post(&token, TRUSTS, said).await.is(201)["trust"].clone();
    let answer = cloud.login(user_by_id(&people.third), by(&second)).await.is(201);
    assert_eq!(answer["token"]["user"]["id"], json!(people.third));
    assert_eq!(answer["token"]["roles"], json!([{ "id": people.lent, "name": "lent" }]));
}

/// As in LP#2150089, where whoever was lent one project read the secrets of all.
pub async fn credentials_of_another_project_are_not_lent(cloud: Cloud) {
    let people = People::of(&cloud).await;
    let trust = people.make(&cloud, json!({})).await;
    let token = cloud.login(user_by_id(&people.trustee), by(&trust)).await.token;
    let new = |project: Value, access: &str| {
        let blob = json!({ "access": access, "secret": "s" }).to_string();
        json!({ "credential": { "type": "ec2", "blob": blob, "user_id": people.trustor, "project_id": project } })
    };
    let plain = json!({ "credential": { "type": "totp", "blob": "b", "user_id": people.trustor } });
    let other = id(&cloud.post(&people.token, "/v3/credentials", plain.clone()).await.is(201));
    cloud.post(&token, "/v3/credentials", plain).await.fault(403);
    cloud.post(&token, "/v3/credentials", new(json!("elsewhere"), "a")).await.fault(403);
    let made = cloud.post(&token, "/v3/credentials", new(json!(people.project), "a")).await.is(201);
    let blob: Value = serde_json::from_str(made["credential"]["blob"].as_str().unwrap()).unwrap();
    assert_eq!(blob, json!({ "access": "a", "secret": "s", "trust_id": trust["id"] }));
    let own = format!("/v3/credentials/{}", id(&made));
    let other = format!("/v3/credentials/{other}");
    cloud.get(&token, &own).await.is(200);
    cloud.get(&token, &other).await.fault(403);
    cloud.patch(&token, &other, json!({ "credential": { "blob": "c" } })).await.fault(403);
    cloud.patch(&token, &own, json!({ "credential": { "project_id": "elsewhere" } })).await.fault(403);
    cloud.delete(&token, &other).await.fault(403);
    let listed = cloud.get(&token, "/v3/credentials").await.is(200);
    assert_eq!(listed["credentials"].as_array().unwrap().len(), 1);
    assert_eq!(cloud.get(&people.token, "/v3/credentials").await.is(200)["credentials"].as_array().unwrap().len(), 2);
    cloud.delete(&token, &own).await.is(204);
}
