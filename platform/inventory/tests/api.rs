//! Hosts and tokens through the API of a whole cloud on simulated hosts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use serde_json::{Value, json};
use testing::{Answer, Cloud, Token};

const PATIENCE: Duration = Duration::from_secs(20);

/// A cloud that takes in hosts, with one simulated host.
async fn cloud() -> (Cloud, Token) {
    let cloud = Cloud::with_settings(1, &[("hosts.listen", "127.0.0.1:5001")]).await;
    let admin = cloud.admin().await;
    cloud.until(&admin, "/inventory/v1/ihosts", PATIENCE, |a| a.json()["ihosts"][0]["availability"] == "available").await;
    (cloud, admin)
}

fn fault(answer: &Answer) -> String {
    let inner: Value = serde_json::from_str(answer.json()["error_message"].as_str().unwrap_or_default()).unwrap_or(Value::Null);
    inner["faultstring"].as_str().unwrap_or_default().to_string()
}

async fn token(cloud: &Cloud, admin: &Token, body: Value) -> String {
    let made = cloud.post(admin, "/inventory/v1/join_tokens", body).await.expect(200);
    made["token"].as_str().unwrap().rsplit_once('.').unwrap().0.to_string()
}

async fn join(cloud: &Cloud, token: &str, name: &str, request: &str, id: Option<&str>) -> Answer {
    let body = json!({"token": token, "hostname": name, "host_id": id, "request": request});
    cloud.request("POST", "/inventory/v1/join").json(&body).send().await
}

async fn act(cloud: &Cloud, admin: &Token, id: &str, action: &str) -> Answer {
    let body = json!([{"op": "replace", "path": "/action", "value": action}]);
    cloud.request("PATCH", &format!("/inventory/v1/ihosts/{id}")).token(admin).json(&body).send().await
}

#[tokio::test]
async fn a_token_is_good_once_for_one_host_and_for_a_while() {
    let (cloud, admin) = cloud().await;
    let offer = cloud.request("GET", "/inventory/v1/join").send().await.expect(200);
    assert_eq!(offer["sessions"], "https://127.0.0.1:5001");
    let made = cloud.post(&admin, "/inventory/v1/join_tokens", json!({})).await.expect(200);
    let (text, fingerprint) = made["token"].as_str().unwrap().rsplit_once('.').unwrap();
    assert_eq!(pki::fingerprint(offer["authority"].as_str().unwrap()).unwrap(), fingerprint);

    let request = pki::Request::new().unwrap().text;
    let refused = join(&cloud, "0011223344556677.00", "edge-1", &request, None).await;
    assert_eq!((refused.status, fault(&refused).as_str()), (403, "The token is not known, has expired or was used."));
    // What cannot be right does not use it up.
    for (name, request, field) in [("edge_1", request.as_str(), "hostname"), ("edge-1", "nonsense", "request")] {
        let answer = join(&cloud, text, name, request, None).await;
        assert!(answer.status == 400 && fault(&answer).starts_with(field), "{}", answer.text());
    }
    let first = join(&cloud, text, "edge-1", &request, None).await.expect(200);
    let host = pki::peer(&pem(first["certificate"].as_str().unwrap())).unwrap();
    assert_eq!(host.host_id, first["host_id"].as_str().unwrap());
    // The answer may have been lost: the very same request is answered again, any other is not.
    let again = join(&cloud, text, "edge-1", &request, None).await.expect(200);
    assert_eq!(again["host_id"], first["host_id"]);
    assert_eq!(join(&cloud, text, "edge-1", &pki::Request::new().unwrap().text, None).await.status, 403);
    assert_eq!(join(&cloud, text, "edge-2", &request, None).await.status, 200, "the same request under the name the operator corrected");

    let bound = token(&cloud, &admin, json!({"hostname": "edge-3"})).await;
    assert_eq!(join(&cloud, &bound, "edge-4", &request, None).await.status, 403);
    assert_eq!(join(&cloud, &bound, "edge-3", &request, None).await.status, 200);

    let short = token(&cloud, &admin, json!({"lifetime_seconds": 1})).await;
    let list = "/inventory/v1/join_tokens";
    cloud.until(&admin, list, PATIENCE, |a| a.json()["join_tokens"].as_array().unwrap().iter().any(|t| t["state"] == "expired")).await;
    assert_eq!(join(&cloud, &short, "edge-5", &request, None).await.status, 403);
    for (body, field) in
        [(json!({"lifetime_seconds": 0}), "lifetime_seconds"), (json!({"hostname": "a b"}), "hostname"), (json!({"x": 1}), "x")]
    {
        let answer = cloud.post(&admin, list, body).await;
        assert!(answer.status == 400 && fault(&answer).contains(field), "{}", answer.text());
    }
    let gone = token(&cloud, &admin, json!({})).await;
    let id = gone.split('.').next().unwrap();
    assert_eq!(cloud.delete(&admin, &format!("{list}/{id}")).await.status, 204);
    assert_eq!(cloud.delete(&admin, &format!("{list}/{id}")).await.status, 404);
    assert_eq!(join(&cloud, &gone, "edge-6", &request, None).await.status, 403);
}

fn pem(text: &str) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::from_pem_slice(text.as_bytes()).unwrap().to_vec()
}

#[tokio::test]
async fn names_belong_to_one_host() {
    let (cloud, admin) = cloud().await;
    let request = || pki::Request::new().unwrap().text;
    let first = join(&cloud, &token(&cloud, &admin, json!({})).await, "edge-1", &request(), None).await.expect(200);
    let taken = join(&cloud, &token(&cloud, &admin, json!({})).await, "edge-1", &request(), None).await;
    assert!(taken.status == 409 && fault(&taken).contains("--name"), "{}", taken.text());
    // The same machine may come again, as when it lost its certificate.
    let id = first["host_id"].as_str();
    let back = join(&cloud, &token(&cloud, &admin, json!({})).await, "edge-1", &request(), id).await.expect(200);
    assert_eq!(back["host_id"], first["host_id"]);
    // An announced host is the one that joins by its name, and stays locked.
    let announced = cloud.post(&admin, "/inventory/v1/ihosts", json!({"hostname": "edge-2", "personality": "worker"})).await.expect(200);
    assert_eq!((&announced["administrative"], &announced["invprovision"]), (&json!("locked"), &json!("unprovisioned")));
    let joined = join(&cloud, &token(&cloud, &admin, json!({})).await, "edge-2", &request(), None).await.expect(200);
    assert_eq!(joined["host_id"], announced["uuid"]);
    let shown = cloud.get(&admin, &format!("/inventory/v1/ihosts/{}", announced["id"])).await.expect(200);
    assert_eq!((&shown["administrative"], &shown["invprovision"]), (&json!("locked"), &json!("provisioned")));
    for (body, field) in [
        (json!({"hostname": "edge-2", "personality": "worker"}), "edge-2"),
        (json!({"hostname": "edge-9", "personality": "storage"}), "personality"),
        (json!({"hostname": "-", "personality": "worker"}), "hostname"),
    ] {
        let answer = cloud.post(&admin, "/inventory/v1/ihosts", body).await;
        assert!(answer.status >= 400 && answer.status < 410 && fault(&answer).contains(field), "{}", answer.text());
    }
    let page = cloud.get(&admin, "/inventory/v1/ihosts?sort_key=hostname&sort_dir=desc&limit=1").await.expect(200);
    assert_eq!((page["ihosts"].as_array().unwrap().len(), &page["ihosts"][0]["hostname"]), (1, &json!("host-0")));
    let next = page["next"].as_str().unwrap().split_once("/inventory").unwrap().1.to_string();
    let rest = cloud.get(&admin, &format!("/inventory{}", next.replace("limit=1&", "").replace("limit=1", "limit=9"))).await.expect(200);
    let names: Vec<&str> = rest["ihosts"].as_array().unwrap().iter().map(|h| h["hostname"].as_str().unwrap()).collect();
    assert_eq!(names, ["edge-2", "edge-1"]);
}

#[tokio::test]
async fn a_locked_host_takes_nothing_and_can_be_deleted() {
    let (mut cloud, admin) = cloud().await;
    cloud.host_add("host-1").await;
    let both = |a: &Answer| a.json()["ihosts"].as_array().unwrap().iter().filter(|h| h["availability"] == "available").count() == 2;
    let hosts = cloud.until(&admin, "/inventory/v1/ihosts", PATIENCE, both).await.json();
    let ids: Vec<String> = hosts["ihosts"].as_array().unwrap().iter().map(|h| h["uuid"].as_str().unwrap().to_string()).collect();
    // The first of the process is the controller's own.
    let answer = cloud.delete(&admin, &format!("/inventory/v1/ihosts/{}", ids[1])).await;
    assert!(answer.status == 400 && fault(&answer).contains("must be locked"), "{}", answer.text());
    let locked = act(&cloud, &admin, &ids[1], "lock").await.expect(200);
    assert_eq!(
        (&locked["administrative"], &locked["operational"], &locked["availability"]),
        (&json!("locked"), &json!("disabled"), &json!("online"))
    );
    assert_eq!(act(&cloud, &admin, &ids[1], "lock").await.status, 400);
    let alarms = cloud.get(&admin, "/fault/v1/alarms").await.expect(200);
    assert_eq!((&alarms["alarms"][0]["alarm_id"], &alarms["alarms"][0]["entity_instance_id"]), (&json!("200.001"), &json!("host=host-1")));
    let services = cloud.get(&admin, "/compute/v2.1/os-services?host=host-1").await.expect(200);
    assert_eq!(services["services"][0]["status"], "disabled");
    let volumes = |body: &Value| {
        let all = body["services"].as_array().unwrap().clone();
        let of_host = |s: &Value| s["binary"] == "cinder-volume" && s["host"].as_str().is_some_and(|host| host.starts_with("host-1"));
        all.into_iter().find(of_host).unwrap()["status"].clone()
    };
    let path = format!("/volume/v3/{}/os-services", admin.project_id);
    assert_eq!(volumes(&cloud.get(&admin, &path).await.expect(200)), "disabled");
    act(&cloud, &admin, &ids[1], "unlock").await.expect(200);
    assert_eq!(cloud.get(&admin, "/fault/v1/alarms").await.expect(200)["alarms"], json!([]));
    assert_eq!(cloud.get(&admin, "/compute/v2.1/os-services?host=host-1").await.expect(200)["services"][0]["status"], "enabled");
    assert_eq!(volumes(&cloud.get(&admin, &path).await.expect(200)), "enabled");
    for (action, word) in [("reboot", "not there yet"), ("dance", "dance")] {
        let answer = act(&cloud, &admin, &ids[1], action).await;
        assert!(answer.status == 400 && fault(&answer).contains(word), "{}", answer.text());
    }

    act(&cloud, &admin, &ids[1], "lock").await.expect(200);
    // It comes back after a crash of the controller as it was.
    let cloud = cloud.crash().await;
    let path = format!("/inventory/v1/ihosts/{}", ids[1]);
    let back = cloud.until(&admin, &path, PATIENCE, |a| a.json()["availability"] == "online").await.json();
    assert_eq!(back["administrative"], "locked");
    let made = cloud.delete(&admin, &path).await;
    // In this process all hosts are workers only when they are simulated by the configuration.
    assert!(made.status == 400 && fault(&made).contains("controller"), "{}", made.text());
}

#[tokio::test]
async fn a_deleted_host_is_forgotten_everywhere() {
    let (mut cloud, admin) = cloud().await;
    let joined =
        join(&cloud, &token(&cloud, &admin, json!({})).await, "edge-1", &pki::Request::new().unwrap().text, None).await.expect(200);
    let id = joined["host_id"].as_str().unwrap().to_string();
    host::id_set(&cloud.home().join("edge-1"), &id).unwrap();
    cloud.host_add("edge-1").await;
    let path = format!("/inventory/v1/ihosts/{id}");
    cloud.until(&admin, &path, PATIENCE, |a| a.json()["availability"] == "available").await;
    act(&cloud, &admin, &id, "lock").await.expect(200);
    assert_eq!(cloud.delete(&admin, &path).await.status, 204);
    assert_eq!(cloud.get(&admin, &path).await.status, 404);
    let authority = pki::Authority::open(&cloud.home().join("pki")).unwrap();
    let serial = pki::peer(&pem(joined["certificate"].as_str().unwrap())).unwrap().serial;
    assert!(authority.revocations().contains(&serial).unwrap());
    assert_eq!(cloud.get(&admin, "/compute/v2.1/os-services?host=edge-1").await.expect(200)["services"], json!([]));
    assert_eq!(cloud.get(&admin, "/network/v2.0/agents?host=edge-1").await.expect(200)["agents"], json!([]));
    assert_eq!(cloud.get(&admin, "/fault/v1/alarms").await.expect(200)["alarms"], json!([]));
    // Its name is free again.
    let again =
        join(&cloud, &token(&cloud, &admin, json!({})).await, "edge-1", &pki::Request::new().unwrap().text, Some(&id)).await.expect(200);
    assert_ne!(again["host_id"], joined["host_id"]);
}
