//! Version 2.0: the same cloud without microversions, and less strict about bodies.

use serde_json::{Value, json};
use testing::Answer;

use crate::world::{PATIENCE, World};

async fn call(w: &World, method: &str, path: &str, body: Option<Value>) -> Answer {
    let request = w.cloud.request(method, &format!("/compute/v2{path}")).token(&w.tenant).header("openstack-api-version", "compute 2.104");
    match body {
        Some(body) => request.json(&body).send().await,
        None => request.send().await,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_lead_to_their_documents() {
    let w = World::new().await;
    let listed = w.cloud.request("GET", "/compute/").send().await.expect(200);
    let ids: Vec<&Value> = listed["versions"].as_array().unwrap().iter().map(|v| &v["id"]).collect();
    assert_eq!(ids, ["v2.0", "v2.1"]);
    for version in listed["versions"].as_array().unwrap() {
        let href = version["links"][0]["href"].as_str().unwrap();
        assert!(href.ends_with('/'), "{href}");
        let path = format!("/compute/{}", href.split("/compute/").nth(1).unwrap());
        let shown = w.cloud.request("GET", &path).send().await.expect(200)["version"].clone();
        assert_eq!((&shown["links"][0], &shown["id"]), (&version["links"][0], &version["id"]));
        assert_eq!(shown["media-types"].as_array().unwrap().len(), 1);
    }
    assert_eq!((&listed["versions"][0]["status"], &listed["versions"][0]["version"]), (&json!("DEPRECATED"), &json!("")));
    assert_eq!((&listed["versions"][1]["status"], &listed["versions"][1]["version"]), (&json!("CURRENT"), &json!("2.104")));
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_live_without_microversions() {
    let w = World::new().await;
    // Unknown attributes are passed over, names lose their spaces: version 2.1 refuses both.
    let body = w.body(json!({"name": " vm ", "odd": 1, "description": "from 2.19 on"}));
    assert_eq!(w.post("/servers", body.clone(), "2.1").await.status, 400);
    let made = call(&w, "POST", "/servers", Some(body)).await;
    assert_eq!((made.header("openstack-api-version"), made.header("x-openstack-nova-api-version")), ("", ""));
    let made = made.expect(202)["server"].clone();
    let id = made["id"].as_str().unwrap();
    assert!(made["links"][0]["href"].as_str().unwrap().ends_with(&format!("/compute/v2/servers/{id}")), "{made}");
    let at = format!("/servers/{id}");
    let active = |a: &Answer| a.json()["server"]["status"] == "ACTIVE";
    let shown = w.cloud.until(&w.tenant, &format!("/compute/v2{at}"), PATIENCE, active).await.json()["server"].clone();
    assert_eq!((&shown["name"], &shown["description"], &shown["locked"]), (&json!("vm"), &Value::Null, &Value::Null));
    assert!(shown.get("description").is_none() && shown["flavor"]["id"] == "1");
    let project = format!("/{}", w.tenant.project_id);
    assert_eq!(call(&w, "GET", &format!("{project}{at}"), None).await.status, 200);
    // What all versions have, what only the old ones had, and what came later.
    assert_eq!(call(&w, "POST", &format!("{at}/action"), Some(json!({"lock": null}))).await.status, 202);
    assert_eq!(call(&w, "POST", &format!("{at}/action"), Some(json!({"unlock": null}))).await.status, 202);
    assert_eq!(call(&w, "GET", "/images", None).await.status, 200);
    assert_eq!(call(&w, "GET", "/os-floating-ip-pools", None).await.status, 200);
    assert_eq!(call(&w, "GET", &format!("{at}/tags"), None).await.status, 404);
    assert_eq!(call(&w, "POST", &format!("{at}/action"), Some(json!({"trigger_crash_dump": null}))).await.status, 404);
    assert_eq!(call(&w, "PUT", &at, Some(json!({"server": {"name": "new", "odd": 1}}))).await.expect(200)["server"]["name"], "new");
    assert_eq!(call(&w, "PUT", &at, Some(json!({"server": {"name": 1}}))).await.status, 400);
    assert_eq!(call(&w, "GET", "/os-simple-tenant-usage/", None).await.status, 404, "the usage of nobody");
    let keypair = call(&w, "POST", "/os-keypairs", Some(json!({"keypair": {"name": "key", "odd": 1}}))).await.expect(200);
    assert!(keypair["keypair"].get("type").is_none(), "{keypair}");
    assert_eq!(call(&w, "DELETE", &at, None).await.status, 204);
    w.gone(id).await;
}
