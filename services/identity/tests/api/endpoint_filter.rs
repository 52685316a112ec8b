//! The catalogue of a project shows the endpoints that were chosen for it.

use serde_json::{Value, json};

use crate::cloud::*;

const GROUPS: &str = "/v3/OS-EP-FILTER/endpoint_groups";

/// `type interface` of all endpoints in the catalogue of a token, sorted.
async fn seen(cloud: &Cloud, token: &str) -> Vec<String> {
    let validated = cloud.validate(token, token).await.is(200);
    let own = cloud.get(token, "/v3/auth/catalog").await.is(200);
    assert_eq!(validated["token"]["catalog"], own["catalog"]);
    let mut all = Vec::new();
    for service in own["catalog"].as_array().unwrap() {
        for endpoint in service["endpoints"].as_array().unwrap() {
            all.push(format!("{} {}", service["type"].as_str().unwrap(), endpoint["interface"].as_str().unwrap()));
        }
    }
    all.sort();
    all
}

fn ids(body: &Value, key: &str) -> Vec<String> {
    body[key].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_string()).collect()
}

pub async fn catalogues_show_what_was_chosen(cloud: Cloud) {
    let admin = cloud.admin().await;
    let project = cloud.project(&admin, "p", None).await;
    let (user, role) = (cloud.user(&admin, "u").await, cloud.role(&admin, "member").await);
    for target in [format!("projects/{project}"), "domains/default".into()] {
        cloud.put(&admin, &format!("/v3/{target}/users/{user}/roles/{role}")).await.is(204);
    }
    let token = cloud.login(user_by_id(&user), on_project(&project)).await.token;
    assert_eq!(seen(&cloud, &token).await.len(), 6);

    // One endpoint: nothing else is seen, not even the other service.
    let service = cloud.get(&admin, "/v3/services?type=object-store").await.is(200)["services"][0]["id"].as_str().unwrap().to_string();
    let of_service = cloud.get(&admin, &format!("/v3/endpoints?service_id={service}&interface=public")).await.is(200);
    let endpoint = ids(&of_service, "endpoints").remove(0);
    let one = format!("/v3/OS-EP-FILTER/projects/{project}/endpoints/{endpoint}");
    assert_eq!(cloud.get(&admin, &one).await.fault(404), format!("Endpoint {endpoint} not found in project {project}"));
    cloud.put(&admin, &one).await.is(204);
    cloud.put(&admin, &one).await.fault(409);
    cloud.get(&admin, &one).await.is(204);
    assert_eq!(cloud.ask(&admin, "HEAD", &one, Value::Null).await.status, 204);
    assert_eq!(seen(&cloud, &token).await, ["object-store public"]);
    let listed = cloud.get(&admin, &format!("/v3/OS-EP-FILTER/projects/{project}/endpoints")).await.is(200);
    assert_eq!(listed["endpoints"], of_service["endpoints"]);
    let projects = cloud.get(&admin, &format!("/v3/OS-EP-FILTER/endpoints/{endpoint}/projects")).await.is(200);
    assert_eq!(ids(&projects, "projects"), [project.as_str()]);
    // Of this project only.
    let domain = cloud.login(user_by_id(&user), on_domain("default")).await.is(201);
    assert_eq!(domain["token"]["catalog"].as_array().unwrap().len(), 2);
    assert_eq!(seen(&cloud, &admin).await.len(), 6);

    // A group beside it.
    let new = |filters: Value| json!({ "endpoint_group": { "name": "internal ones", "filters": filters } });
    let made = cloud.post(&admin, GROUPS, new(json!({ "interface": "internal" }))).await.is(201);
    let group = id(&made);
    let path = format!("{GROUPS}/{group}");
    assert_eq!(
        made,
        json!({ "endpoint_group": { "id": group, "name": "internal ones", "description": null, "filters": { "interface": "internal" },
            "links": { "self": format!("http://cloud{path}") } } })
    );
    assert_eq!(cloud.get(&admin, &path).await.is(200), made);
    let member = format!("{path}/projects/{project}");
    assert_eq!(cloud.get(&admin, &member).await.fault(404), "Endpoint Group Project Association not found");
    cloud.put(&admin, &member).await.is(204);
    cloud.put(&admin, &member).await.fault(409);
    assert_eq!(
        cloud.get(&admin, &member).await.is(200),
        json!({ "project_endpoint_group": { "endpoint_group_id": group, "project_id": project, "links": { "self": format!("http://cloud{member}") } } })
    );
    assert_eq!(seen(&cloud, &token).await, ["identity internal", "object-store internal", "object-store public"]);
    assert_eq!(ids(&cloud.get(&admin, &format!("{path}/projects")).await.is(200), "projects"), [project.as_str()]);
    assert_eq!(ids(&cloud.get(&admin, &format!("{path}/endpoints")).await.is(200), "endpoints").len(), 2);
    let groups = cloud.get(&admin, &format!("/v3/OS-EP-FILTER/projects/{project}/endpoint_groups")).await.is(200);
    assert_eq!(ids(&groups, "endpoint_groups"), [group.as_str()]);
    assert_eq!(ids(&cloud.get(&admin, &format!("{GROUPS}?name=internal%20ones")).await.is(200), "endpoint_groups"), [group.as_str()]);
    assert_eq!(ids(&cloud.get(&admin, &format!("{GROUPS}?name=other")).await.is(200), "endpoint_groups"), [""; 0]);

    // What the group asks for changes, and every token's catalogue with it.
    let narrow = json!({ "endpoint_group": { "filters": { "service_id": service, "region_id": "RegionOne", "interface": "admin" }, "description": "d" } });
    let changed = cloud.patch(&admin, &path, narrow).await.is(200);
    assert_eq!(changed["endpoint_group"]["description"], "d");
    assert_eq!(seen(&cloud, &token).await, ["object-store admin", "object-store public"]);
    cloud.patch(&admin, &path, json!({ "endpoint_group": { "filters": { "region_id": null } } })).await.is(200);
    assert_eq!(seen(&cloud, &token).await, ["object-store public"]);
    cloud.delete(&admin, &one).await.is(204);
    cloud.delete(&admin, &one).await.fault(404);
    // Nothing is chosen where nothing that is chosen is there.
    assert_eq!(seen(&cloud, &token).await.len(), 6);
    cloud.delete(&admin, &member).await.is(204);
    cloud.delete(&admin, &member).await.fault(404);

    for bad in [
        json!({}),
        json!({ "name": "n" }),
        json!({ "name": "n", "filters": {} }),
        json!({ "name": "n", "filters": [] }),
        json!({ "name": "n", "filters": { "url": "u" } }),
        json!({ "name": "n", "filters": { "interface": "secret" } }),
        json!({ "name": "n", "filters": { "service_id": 1 } }),
        json!({ "name": "", "filters": { "interface": "public" } }),
        json!({ "name": "n", "filters": { "interface": "public" }, "more": 1 }),
    ] {
        cloud.post(&admin, GROUPS, json!({ "endpoint_group": bad })).await.fault(400);
    }
    cloud.patch(&admin, &path, json!({ "endpoint_group": {} })).await.fault(400);
    assert_eq!(cloud.get(&admin, &format!("{GROUPS}/none")).await.fault(404), "Could not find Endpoint Group: none.");

    // All of it goes with what it is about.
    cloud.put(&admin, &one).await.is(204);
    cloud.put(&admin, &member).await.is(204);
    cloud.delete(&admin, &path).await.is(204);
    cloud.delete(&admin, &format!("/v3/services/{service}")).await.is(204);
    assert_eq!(seen(&cloud, &token).await.len(), 3);
    let left = "SELECT 1 FROM project_endpoint UNION ALL SELECT 1 FROM project_endpoint_group";
    let left = cloud.store.read(|tx| tx.query(left, store::params![], |_| Ok(()))).await.unwrap();
    assert!(left.is_empty());

    // Without a choice, nothing, where that is wanted.
    let cloud = cloud.configured(|config| config.set("endpoint_filter.return_all_endpoints_if_no_filter", "false")).await.unwrap();
    let token = cloud.login(user_by_id(&user), on_project(&project)).await.token;
    assert_eq!(seen(&cloud, &token).await, [""; 0]);
}
