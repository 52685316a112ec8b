//! Server groups: their life, their quotas, and that the scheduler keeps to them whatever happens at once.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::world::World;

impl World {
    async fn group(&self, body: Value) -> String {
        let made = self.post("/os-server-groups", json!({ "server_group": body }), "2.64").await.expect(200);
        made["server_group"]["id"].as_str().unwrap().to_string()
    }
    /// A body of `POST /servers` for a member of `group`.
    fn member(&self, group: &str, extra: Value) -> Value {
        let mut body = self.body(extra);
        body["os:scheduler_hints"] = json!({ "group": group });
        body
    }
    async fn members(&self, group: &str) -> Vec<String> {
        let shown = self.get(&format!("/os-server-groups/{group}"), "2.64").await.expect(200);
        shown["server_group"]["members"].as_array().unwrap().iter().map(|m| m.as_str().unwrap().to_string()).collect()
    }
    /// Waits until every member is settled; answers the statuses and the hosts.
    async fn settled(&self, group: &str) -> (Vec<String>, Vec<String>) {
        let (mut statuses, mut hosts) = (Vec::new(), Vec::new());
        for id in self.members(group).await {
            let path = format!("/compute/v2.1/servers/{id}");
            let done = |a: &testing::Answer| matches!(a.json()["server"]["status"].as_str(), Some("ACTIVE" | "ERROR"));
            let server = self.cloud.until(&self.admin, &path, crate::world::PATIENCE, done).await.json()["server"].clone();
            statuses.push(server["status"].as_str().unwrap().to_string());
            hosts.extend(server["OS-EXT-SRV-ATTR:host"].as_str().map(str::to_string));
        }
        (statuses, hosts)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_groups_life_in_each_version() {
    let w = World::new().await;
    let at = "/os-server-groups";
    for (body, version, status) in [
        (json!({"name": "g", "policies": ["affinity"]}), "2.1", 200),
        (json!({"name": "g", "policies": ["soft-affinity"]}), "2.14", 400),
        (json!({"name": "g", "policies": ["soft-affinity"]}), "2.15", 200),
        (json!({"name": "g", "policies": []}), "2.15", 400),
        (json!({"name": "g", "policies": ["affinity", "affinity"]}), "2.15", 400),
        (json!({"name": "g", "policies": "affinity"}), "2.15", 400),
        (json!({"name": "g", "policies": ["legacy"]}), "2.15", 400),
        (json!({"policies": ["affinity"]}), "2.15", 400),
        (json!({"name": " ", "policies": ["affinity"]}), "2.15", 400),
        (json!({"name": "g", "policies": ["affinity"]}), "2.64", 400),
        (json!({"name": "g", "policy": "affinity"}), "2.63", 400),
        (json!({"name": "g", "policy": "affinity"}), "2.64", 200),
        (json!({"name": "g", "policy": "affinity", "rules": {}}), "2.64", 200),
        (json!({"name": "g", "policy": "affinity", "rules": {"max_server_per_host": 2}}), "2.64", 400),
        (json!({"name": "g", "policy": "anti-affinity", "rules": {"max_server_per_host": "2"}}), "2.64", 200),
        (json!({"name": "g", "policy": "anti-affinity", "rules": {"max_server_per_host": 0}}), "2.64", 400),
        (json!({"name": "g", "policy": "anti-affinity", "rules": {"other": 1}}), "2.64", 400),
        (json!({"name": "g", "policy": "anti-affinity", "rules": null}), "2.64", 400),
    ] {
        let answer = w.post(at, json!({"server_group": body}), version).await;
        assert_eq!(answer.status, status, "{body} {version}: {}", answer.text());
    }
    let all = w.get(at, "2.64").await.expect(200)["server_groups"].as_array().unwrap().clone();
    assert_eq!(all.len(), 5);
    assert_eq!(all[4]["rules"], json!({"max_server_per_host": 2}));
    assert_eq!((&all[0]["policy"], &all[0]["rules"], &all[0]["members"]), (&json!("affinity"), &json!({}), &json!([])));
    assert_eq!((&all[0]["project_id"], &all[0]["user_id"]), (&json!(w.tenant.project_id), &json!(w.tenant.user_id)));
    let path = format!("{at}/{}", all[0]["id"].as_str().unwrap());
    let old = w.get(&path, "2.12").await.expect(200)["server_group"].clone();
    assert_eq!(old, json!({"id": all[0]["id"], "name": "g", "policies": ["affinity"], "metadata": {}, "members": []}));
    assert!(w.get(&path, "2.13").await.expect(200)["server_group"]["project_id"].is_string());
    assert_eq!(w.get(&format!("{at}?limit=2&offset=1"), "2.64").await.expect(200)["server_groups"], json!(all[1..3]));
    for (query, version, status) in [("limit=-1", "2.1", 400), ("x=1", "2.74", 200), ("x=1", "2.75", 400), ("offset=x", "2.1", 400)] {
        assert_eq!(w.get(&format!("{at}?{query}"), version).await.status, status, "{query}");
    }
    // Others neither see nor touch it; an administrator sees all.
    let stranger = w.cloud.tenant("stranger", "member").await;
    assert_eq!(w.call(&stranger, "GET", &path, None, "2.64").await.status, 404);
    assert_eq!(w.call(&stranger, "DELETE", &path, None, "2.64").await.status, 404);
    let of = |body: Value| body["server_groups"].as_array().unwrap().len();
    assert_eq!(of(w.call(&stranger, "GET", &format!("{at}?all_projects"), None, "2.64").await.expect(200)), 0);
    assert_eq!(of(w.call(&w.admin, "GET", at, None, "2.64").await.expect(200)), 0);
    assert_eq!(of(w.call(&w.admin, "GET", &format!("{at}?all_projects=1"), None, "2.64").await.expect(200)), 5);
    let reader = w.cloud.tenant("reader", "reader").await;
    let body = json!({"server_group": {"name": "g", "policy": "affinity"}});
    assert_eq!(w.call(&reader, "POST", at, Some(body.clone()), "2.64").await.status, 403);
    assert_eq!(w.delete(&path, "2.1").await.status, 204);
    assert_eq!(w.delete(&path, "2.1").await.status, 404);
    assert_eq!(w.get(&path, "2.1").await.status, 404);
    // The quota holds, for the project and for the user.
    for (limit, status) in [(4, 403), (5, 200), (5, 403)] {
        let quota = json!({"quota_set": {"server_groups": limit, "force": true}});
        let quotas = format!("/compute/v2.1/os-quota-sets/{}", w.tenant.project_id);
        w.cloud.put(&w.admin, &quotas, quota).await.expect(200);
        assert_eq!(w.post(at, body.clone(), "2.64").await.status, status, "{limit}");
    }
    assert_eq!(w.get("/limits", "2.1").await.expect(200)["limits"]["absolute"]["totalServerGroupsUsed"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn affinity_holds_under_races() {
    let w = World::with_hosts(4).await;
    let group = w.group(json!({"name": "together", "policy": "affinity"})).await;
    let made = futures(&w, &group, 6).await;
    assert_eq!(made, vec![202; 6]);
    let (statuses, hosts) = w.settled(&group).await;
    assert_eq!(statuses, vec!["ACTIVE"; 6]);
    assert_eq!(hosts.iter().collect::<BTreeSet<_>>().len(), 1, "{hosts:?}");
    // Shown with the server, and gone with it.
    let id = w.members(&group).await[0].clone();
    assert_eq!(w.get(&format!("/servers/{id}"), "2.71").await.expect(200)["server"]["server_groups"], json!([group]));
    w.delete(&format!("/servers/{id}"), "2.1").await;
    w.gone(&id).await;
    assert_eq!(w.members(&group).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn anti_affinity_holds_under_races() {
    let w = World::with_hosts(4).await;
    for (rules, fits) in [(json!({}), 4), (json!({"max_server_per_host": 2}), 8)] {
        let group = w.group(json!({"name": "apart", "policy": "anti-affinity", "rules": rules})).await;
        assert_eq!(futures(&w, &group, fits + 1).await, vec![202; fits + 1]);
        let (mut statuses, hosts) = w.settled(&group).await;
        statuses.sort();
        assert_eq!(statuses.iter().filter(|s| *s == "ACTIVE").count(), fits, "{statuses:?}");
        for host in hosts.iter().collect::<BTreeSet<_>>() {
            assert_eq!(hosts.iter().filter(|h| *h == host).count(), fits / 4, "{hosts:?}");
        }
        for id in w.members(&group).await {
            w.delete(&format!("/servers/{id}"), "2.1").await;
            w.gone(&id).await;
        }
    }
    w.clean().await;
}

/// Creates members of a group at the same time; answers the statuses.
async fn futures(w: &World, group: &str, count: usize) -> Vec<u16> {
    let creates = (0..count).map(|_| w.post("/servers", w.member(group, json!({})), "2.64"));
    let mut statuses = Vec::new();
    for answer in futures_util::future::join_all(creates).await {
        statuses.push(answer.status);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn soft_policies_do_their_best() {
    let w = World::with_hosts(2).await;
    let group = w.group(json!({"name": "apart", "policy": "soft-anti-affinity"})).await;
    for _ in 0..3 {
        let made = w.post("/servers", w.member(&group, json!({})), "2.64").await.expect(202);
        w.wait(made["server"]["id"].as_str().unwrap(), "ACTIVE").await;
    }
    let (_, hosts) = w.settled(&group).await;
    assert_eq!((hosts.len(), hosts.iter().collect::<BTreeSet<_>>().len()), (3, 2), "{hosts:?}");
    let group = w.group(json!({"name": "together", "policy": "soft-affinity"})).await;
    for _ in 0..3 {
        let made = w.post("/servers", w.member(&group, json!({})), "2.64").await.expect(202);
        w.wait(made["server"]["id"].as_str().unwrap(), "ACTIVE").await;
    }
    let (_, hosts) = w.settled(&group).await;
    assert_eq!((hosts.len(), hosts.iter().collect::<BTreeSet<_>>().len()), (3, 1), "{hosts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_the_projects_and_have_a_quota() {
    let w = World::new().await;
    let stranger = w.cloud.tenant("stranger", "member").await;
    let body = json!({"server_group": {"name": "g", "policy": "affinity"}});
    let theirs = w.call(&stranger, "POST", "/os-server-groups", Some(body), "2.64").await.expect(200);
    let theirs = theirs["server_group"]["id"].as_str().unwrap();
    let group = w.group(json!({"name": "g", "policy": "soft-affinity"})).await;
    let quota = json!({"quota_set": {"server_group_members": 2}});
    let quotas = format!("/compute/v2.1/os-quota-sets/{}", w.tenant.project_id);
    w.cloud.put(&w.admin, &quotas, quota).await.expect(200);
    for (group, extra, status) in [
        (theirs, json!({}), 400),
        ("11111111-2222-4333-8444-555555555555", json!({}), 400),
        ("no-uuid", json!({}), 400),
        (&group, json!({"min_count": 3, "max_count": 3}), 403),
        (&group, json!({"min_count": 2, "max_count": 2}), 202),
        (&group, json!({}), 403),
    ] {
        let answer = w.post("/servers", w.member(group, extra.clone()), "2.64").await;
        assert_eq!(answer.status, status, "{group} {extra}: {}", answer.text());
    }
    // A group that goes leaves its servers alone.
    let members = w.members(&group).await;
    assert_eq!(members.len(), 2);
    assert_eq!(w.delete(&format!("/os-server-groups/{group}"), "2.1").await.status, 204);
    for id in &members {
        assert_eq!(w.wait(id, "ACTIVE").await["server_groups"], Value::Null);
        assert_eq!(w.get(&format!("/servers/{id}"), "2.71").await.expect(200)["server"]["server_groups"], json!([]));
    }
}
