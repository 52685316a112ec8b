//! Who may see hosts, act on them, and add and delete them.

use serde_json::{Value, json};
use testing::{Cloud, Token};

use super::cloud;

/// A new user who has this role, which may be new too, in the project of administrators.
pub async fn with_role(cloud: &Cloud, admin: &Token, role: &str) -> Token {
    let path = format!("/identity/v3/roles?name={role}");
    let mut roles = cloud.get(admin, &path).await.expect(200)["roles"].clone();
    if roles == json!([]) {
        cloud.post(admin, "/identity/v3/roles", json!({"role": {"name": role}})).await.expect(201);
        roles = cloud.get(admin, &path).await.expect(200)["roles"].clone();
    }
    let user = json!({"user": {"name": format!("a-{role}"), "domain_id": "default", "password": "a password"}});
    let user = cloud.post(admin, "/identity/v3/users", user).await.expect(201)["user"]["id"].clone();
    let (user, role_id) = (user.as_str().unwrap(), roles[0]["id"].as_str().unwrap());
    let path = format!("/identity/v3/projects/{}/users/{user}/roles/{role_id}", admin.project_id);
    assert_eq!(cloud.put(admin, &path, Value::Null).await.status, 204);
    cloud.login(&format!("a-{role}"), "a password", "admin").await
}

#[tokio::test]
async fn readers_see_operators_act_and_configurators_change() {
    let (cloud, admin) = cloud().await;
    let hosts = "/inventory/v1/ihosts";
    let uuid = cloud.get(&admin, hosts).await.expect(200)["ihosts"][0]["uuid"].as_str().unwrap().to_string();
    let one = format!("{hosts}/{uuid}");
    let stranger = cloud.tenant("tenant", "member").await;
    // By role: whether it sees hosts, acts on one, and adds one.
    for (role, [sees, acts, adds]) in
        [("reader", [true, false, false]), ("operator", [true, true, false]), ("configurator", [true, true, true])]
    {
        let token = with_role(&cloud, &admin, role).await;
        for path in [hosts, &one] {
            assert_eq!(cloud.get(&token, path).await.status == 200, sees, "{role} {path}");
        }
        // What is allowed is wrong in itself: there is no mate.
        let action = json!([{"op": "replace", "path": "/action", "value": "swact"}]);
        let acted = cloud.request("PATCH", &one).token(&token).json(&action).send().await;
        assert_eq!(acted.status, if acts { 400 } else { 403 }, "{role}: {}", acted.text());
        let new = json!({"hostname": format!("of-{role}"), "personality": "worker"});
        let added = cloud.post(&token, hosts, new).await;
        assert_eq!(added.status, if adds { 200 } else { 403 }, "{role}: {}", added.text());
        let deleted = cloud.delete(&token, &one).await;
        assert_eq!(deleted.status, if adds { 400 } else { 403 }, "{role}: {}", deleted.text());
        assert_eq!(cloud.post(&token, "/inventory/v1/join_tokens", json!({})).await.status == 403, !adds, "{role}");
    }
    // Whatever its role elsewhere.
    let action = json!([{"op": "replace", "path": "/action", "value": "lock"}]);
    assert_eq!(cloud.request("PATCH", &one).token(&stranger).json(&action).send().await.status, 403);
    assert_eq!(cloud.request("GET", hosts).send().await.status, 401);
}

#[tokio::test]
async fn a_host_has_every_attribute_that_clients_of_the_original_read() {
    let (cloud, admin) = cloud().await;
    let shown = cloud.get(&admin, "/inventory/v1/ihosts").await.expect(200)["ihosts"][0].clone();
    let names = "id uuid hostname personality subfunctions subfunction_oper subfunction_avail administrative operational availability \
        invprovision task action mgmt_mac mgmt_ip config_status config_target config_applied vim_progress_status capabilities inv_state \
        uptime links serialid location bm_type bm_ip bm_username bm_mac install_state isystem_uuid reserved";
    let missing: Vec<&str> = names.split_whitespace().filter(|name| shown.get(name).is_none()).collect();
    assert_eq!(missing, Vec::<&str>::new());
    assert_eq!((&shown["inv_state"], &shown["mgmt_mac"], &shown["location"]), (&json!("inventoried"), &Value::Null, &json!({})));
    assert!(shown.get("bm_password").is_none());
    let new = json!({"hostname": "later", "personality": "worker"});
    let later = cloud.post(&admin, "/inventory/v1/ihosts", new).await.expect(200);
    assert_eq!((&later["inv_state"], &later["invprovision"]), (&Value::Null, &json!("unprovisioned")));
}
