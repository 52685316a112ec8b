//! Policy blobs.

use serde_json::{Value, json};

use crate::cloud::*;

pub async fn policy_blobs(cloud: Cloud) {
    let admin = cloud.admin().await;
    let new = |kind: &str| json!({ "policy": { "type": kind, "blob": "{'any': 'text'}", "more": [1] } });
    let body = cloud.post(&admin, "/v3/policies", new("application/json")).await.is(201);
    let policy = id(&body);
    let path = format!("/v3/policies/{policy}");
    let whole = json!({ "policy": { "id": policy, "type": "application/json", "blob": "{'any': 'text'}", "more": [1],
        "links": { "self": format!("http://cloud{path}") } } });
    assert_eq!(body, whole);
    assert_eq!(cloud.get(&admin, &path).await.is(200), whole);
    let other = id(&cloud.post(&admin, "/v3/policies", new("text")).await.is(201));
    let ids = async |query: &str| -> Vec<Value> {
        let listed = cloud.get(&admin, &format!("/v3/policies{query}")).await.is(200);
        assert!(listed["links"]["self"].is_string());
        listed["policies"].as_array().unwrap().iter().map(|p| p["id"].clone()).collect()
    };
    let mut both = vec![json!(policy), json!(other)];
    both.sort_by_key(Value::to_string);
    assert_eq!(ids("").await, both);
    assert_eq!(ids("?type=text").await, [json!(other)]);
    assert_eq!(ids("?type__contains=json").await, [json!(policy)]);
    assert_eq!(ids("?type=none").await, Vec::<Value>::new());
    assert_eq!(ids("?limit=1").await, both[..1]);

    let changed = cloud.patch(&admin, &path, json!({ "policy": { "type": "text", "id": policy, "new": true } })).await.is(200);
    assert_eq!(changed["policy"]["type"], "text");
    assert_eq!(changed["policy"]["blob"], "{'any': 'text'}");
    assert_eq!(changed["policy"]["new"], true);
    assert_eq!(cloud.get(&admin, &path).await.is(200), changed);
    assert_eq!(cloud.patch(&admin, &path, json!({ "policy": { "blob": "b" } })).await.is(200)["policy"]["blob"], "b");

    for bad in
        [json!({}), json!({ "type": "t" }), json!({ "blob": "b" }), json!({ "type": 1, "blob": "b" }), json!({ "type": "t", "blob": {} })]
    {
        cloud.post(&admin, "/v3/policies", json!({ "policy": bad })).await.fault(400);
    }
    cloud.post(&admin, "/v3/policies", json!({ "policy": { "type": "t".repeat(256), "blob": "b" } })).await.fault(400);
    for bad in [json!({}), json!({ "blob": null }), json!({ "type": "t", "id": "another" })] {
        cloud.patch(&admin, &path, json!({ "policy": bad })).await.fault(400);
    }
    cloud.patch(&admin, "/v3/policies/none", json!({ "policy": { "type": "t" } })).await.fault(404);
    cloud.get(&admin, "/v3/policies/none").await.fault(404);

    // Readers of the system see them, others do not even hear whether one is there.
    let (user, reader) = (cloud.user(&admin, "auditor").await, cloud.role(&admin, "reader").await);
    cloud.put(&admin, &format!("/v3/system/users/{user}/roles/{reader}")).await.is(204);
    let auditor = cloud.login(user_by_id(&user), on_system()).await.token;
    cloud.get(&auditor, "/v3/policies").await.is(200);
    cloud.get(&auditor, &path).await.is(200);
    let project = cloud.project(&admin, "p", None).await;
    cloud.put(&admin, &format!("/v3/projects/{project}/users/{user}/roles/{reader}")).await.is(204);
    let tenant = cloud.login(user_by_id(&user), on_project(&project)).await.token;
    for path in ["/v3/policies", &path, "/v3/policies/none"] {
        cloud.get(&tenant, path).await.fault(403);
    }
    for token in [&auditor, &tenant] {
        cloud.post(token, "/v3/policies", new("t")).await.fault(403);
        cloud.patch(token, &path, json!({ "policy": { "type": "t" } })).await.fault(403);
        cloud.delete(token, &path).await.fault(403);
    }

    cloud.delete(&admin, &path).await.is(204);
    cloud.delete(&admin, &path).await.fault(404);
    assert_eq!(ids("").await, [json!(other)]);
}
