//! The site itself.

use serde_json::{Value, json};

use super::{cloud, fault, workers};

const ALL: &str = "/inventory/v1/isystems";

#[tokio::test]
async fn there_is_one_system_which_operators_describe() {
    let (mut cloud, admin) = cloud().await;
    let listed = cloud.get(&admin, ALL).await.expect(200);
    let [system] = &listed["isystems"].as_array().unwrap()[..] else { panic!("{listed}") };
    let names = "uuid name description contact location latitude longitude timezone software_version system_type system_mode region_name \
        service_project_name distributed_cloud_role security_feature security_profile capabilities links created_at updated_at";
    let missing: Vec<&str> = names.split_whitespace().filter(|name| system.get(name).is_none()).collect();
    assert_eq!(missing, Vec::<&str>::new());
    assert_eq!(system["name"], system["uuid"], "nobody has named it");
    let derived = ["system_type", "system_mode", "region_name", "timezone"].map(|key| system[key].clone());
    assert_eq!(derived, ["All-in-one", "simplex", "RegionOne", "UTC"].map(Value::from));
    assert_eq!((&system["capabilities"]["https_enabled"], &system["capabilities"]["vswitch_type"]), (&json!(false), &json!("none")));
    let path = format!("{ALL}/{}", system["uuid"].as_str().unwrap());
    assert_eq!(&cloud.get(&admin, &path).await.expect(200), system);

    let patch = async |body: Value| cloud.request("PATCH", &path).token(&admin).json(&body).send().await;
    let replace = |name: &str, value: Value| json!({"op": "replace", "path": format!("/{name}"), "value": value});
    let said = [("name", json!("edge-7")), ("location", json!("Graz, cellar")), ("latitude", json!(47.07)), ("timezone", json!("UTC"))];
    let changed = patch(said.iter().map(|(name, value)| replace(name, value.clone())).collect()).await.expect(200);
    assert_eq!(["name", "location", "latitude"].map(|key| changed[key].clone()), ["edge-7", "Graz, cellar", "47.07"].map(Value::from));
    // All of it or nothing.
    for (name, value) in
        [("longitude", json!("181")), ("software_version", json!("9")), ("system_mode", json!("duplex")), ("name", json!({}))]
    {
        let refused = patch(json!([replace("contact", json!("nobody")), replace(name, value)])).await;
        assert!(refused.status == 400 && fault(&refused).starts_with(name), "{}", refused.text());
    }
    assert_eq!(patch(json!([{"op": "remove", "path": "/name", "value": ""}])).await.status, 400);
    assert_eq!(cloud.get(&admin, &format!("{ALL}/{}", base::id::uuid())).await.status, 404);
    // The next controller knows it; with another host it is no simplex.
    cloud = cloud.crash().await;
    cloud.host_add("host-1").await;
    let shown = cloud.until(&admin, &path, super::PATIENCE, |a| a.json()["system_mode"] == "duplex").await.json();
    assert_eq!((&shown["name"], &shown["contact"]), (&json!("edge-7"), &Value::Null));
    for (role, may) in [("reader", false), ("operator", false), ("configurator", true)] {
        let token = super::roles::with_role(&cloud, &admin, role).await;
        assert_eq!(cloud.get(&token, &path).await.status, 200, "{role}");
        let body = json!([replace("contact", json!("nobody"))]);
        let answer = cloud.request("PATCH", &path).token(&token).json(&body).send().await;
        assert_eq!(answer.status, if may { 200 } else { 403 }, "{role}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_controller_without_a_host_of_its_own_is_of_a_standard_system() {
    let (cloud, admin) = workers(2).await;
    let system = cloud.get(&admin, ALL).await.expect(200)["isystems"][0].clone();
    assert_eq!(["system_type", "system_mode"].map(|key| system[key].clone()), ["Standard", "duplex"].map(Value::from));
}
