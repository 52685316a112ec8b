//! The policy of an endpoint.

use serde_json::json;

use crate::cloud::*;

pub async fn the_nearest_policy_is_in_force(cloud: Cloud) {
    let admin = cloud.admin().await;
    let mut policies = Vec::new();
    for name in ["of the service", "of the country", "of the city", "of the endpoint"] {
        let body = json!({ "policy": { "type": "text", "blob": name } });
        policies.push(id(&cloud.post(&admin, "/v3/policies", body).await.is(201)));
    }
    for region in [json!({ "id": "country" }), json!({ "id": "city", "parent_region_id": "country" }), json!({ "id": "abroad" })] {
        cloud.post(&admin, "/v3/regions", json!({ "region": region })).await.is(201);
    }
    let service = id(&cloud.post(&admin, "/v3/services", json!({ "service": { "type": "t" } })).await.is(201));
    let mut endpoints = Vec::new();
    for region in ["city", "country", "abroad"] {
        let body = json!({ "endpoint": { "service_id": service, "interface": "public", "url": "http://h", "region_id": region } });
        endpoints.push(id(&cloud.post(&admin, "/v3/endpoints", body).await.is(201)));
    }
    let [city, country, abroad] = &endpoints[..] else { unreachable!() };
    let in_force = async |endpoint: &str| cloud.get(&admin, &format!("/v3/endpoints/{endpoint}/OS-ENDPOINT-POLICY/policy")).await;
    let blob = async |endpoint: &str| in_force(endpoint).await.is(200)["policy"]["blob"].as_str().unwrap().to_string();
    let reached = async |policy: &str| {
        let listed = cloud.get(&admin, &format!("/v3/policies/{policy}/OS-ENDPOINT-POLICY/endpoints")).await.is(200);
        let mut ids: Vec<String> = listed["endpoints"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap().into()).collect();
        ids.sort();
        ids
    };
    let sorted = |ids: &[&String]| {
        let mut ids: Vec<String> = ids.iter().map(|id| id.to_string()).collect();
        ids.sort();
        ids
    };
    assert_eq!(in_force(city).await.fault(404), format!("No policy is associated with endpoint {city}."));
    let places = [
        format!("services/{service}"),
        format!("services/{service}/regions/country"),
        format!("services/{service}/regions/city"),
        format!("endpoints/{city}"),
    ];
    let paths: Vec<String> =
        policies.iter().zip(&places).map(|(policy, place)| format!("/v3/policies/{policy}/OS-ENDPOINT-POLICY/{place}")).collect();
    for path in &paths {
        assert_eq!(cloud.get(&admin, path).await.fault(404), "Could not find policy association.");
        for _ in 0..2 {
            cloud.put(&admin, path).await.is(204);
        }
        cloud.get(&admin, path).await.is(204);
    }
    assert_eq!([blob(city).await, blob(country).await, blob(abroad).await], ["of the endpoint", "of the country", "of the service"]);
    assert_eq!(reached(&policies[0]).await, sorted(&[city, country, abroad]));
    assert_eq!(reached(&policies[1]).await, sorted(&[city, country]));
    assert_eq!(reached(&policies[2]).await, sorted(&[city]));
    assert_eq!(reached(&policies[3]).await, sorted(&[city]));
    cloud.delete(&admin, &paths[3]).await.is(204);
    cloud.delete(&admin, &paths[3]).await.fault(404);
    assert_eq!(blob(city).await, "of the city");
    cloud.delete(&admin, &paths[2]).await.is(204);
    assert_eq!(blob(city).await, "of the country");
    // Another policy takes a place over.
    let over = format!("/v3/policies/{}/OS-ENDPOINT-POLICY/{}", policies[3], places[1]);
    cloud.put(&admin, &over).await.is(204);
    assert_eq!(blob(city).await, "of the endpoint");
    cloud.get(&admin, &paths[1]).await.fault(404);

    for missing in [
        format!("/v3/policies/none/OS-ENDPOINT-POLICY/{}", places[0]),
        format!("/v3/policies/{}/OS-ENDPOINT-POLICY/endpoints/none", policies[0]),
        format!("/v3/policies/{}/OS-ENDPOINT-POLICY/services/none", policies[0]),
        format!("/v3/policies/{}/OS-ENDPOINT-POLICY/services/{service}/regions/none", policies[0]),
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            cloud.ask(&admin, method, &missing, json!(null)).await.fault(404);
        }
    }
    // They go with policy, region and service.
    cloud.delete(&admin, &format!("/v3/policies/{}", policies[3])).await.is(204);
    assert_eq!(blob(city).await, "of the service");
    cloud.put(&admin, &paths[2]).await.is(204);
    cloud.delete(&admin, &format!("/v3/endpoints/{city}")).await.is(204);
    cloud.delete(&admin, "/v3/regions/city").await.is(204);
    assert_eq!(reached(&policies[2]).await, Vec::<String>::new());
    cloud.delete(&admin, &format!("/v3/services/{service}")).await.is(204);
    let left = cloud.store.read(|tx| tx.query("SELECT 1 FROM policy_association", store::params![], |_| Ok(()))).await.unwrap();
    assert!(left.is_empty());
}
