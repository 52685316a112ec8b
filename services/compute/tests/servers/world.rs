//! A cloud with what a server needs: a flavor, an image, a network, a tenant.

use std::time::Duration;

use serde_json::{Value, json};
use testing::{Answer, Cloud, Token};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub cloud: Cloud,
    pub admin: Token,
    pub tenant: Token,
    pub image: String,
    pub network: String,
}

impl World {
    pub async fn new() -> World {
        Self::with_hosts(1).await
    }

    pub async fn with_hosts(count: usize) -> World {
        Self::on(Cloud::with_hosts(count).await, count).await
    }

    /// The same on a cloud with so many hosts.
    pub async fn on(cloud: Cloud, count: usize) -> World {
        let admin = cloud.admin().await;
        cloud
            .until(&admin, "/compute/v2.1/os-hypervisors", PATIENCE, |a| {
                a.json()["hypervisors"].as_array().is_some_and(|h| h.len() == count)
            })
            .await;
        let flavor = json!({"flavor": {"id": "1", "name": "m1.tiny", "ram": 64, "vcpus": 1, "disk": 1}});
        cloud.post(&admin, "/compute/v2.1/flavors", flavor).await.expect(200);
        let image = json!({"name": "cirros", "disk_format": "raw", "container_format": "bare", "visibility": "public"});
        let image = cloud.post(&admin, "/image/v2/images", image).await.expect(201);
        let image = image["id"].as_str().unwrap().to_string();
        let stored = cloud
            .request("PUT", &format!("/image/v2/images/{image}/file"))
            .token(&admin)
            .text("application/octet-stream", vec![7u8; 65536])
            .send()
            .await;
        assert_eq!(stored.status, 204, "{}", stored.text());
        let tenant = cloud.tenant("tenant", "member").await;
        let network = cloud.post(&tenant, "/network/v2.0/networks", json!({"network": {"name": "private"}})).await.expect(201);
        let network = network["network"]["id"].as_str().unwrap().to_string();
        let subnet = json!({"subnet": {"network_id": network, "cidr": "10.1.0.0/24", "ip_version": 4}});
        cloud.post(&tenant, "/network/v2.0/subnets", subnet).await.expect(201);
        World { cloud, admin, tenant, image, network }
    }

    /// A body of `POST /servers` with these attributes besides the least ones.
    pub fn body(&self, extra: Value) -> Value {
        let mut server = json!({"name": "vm", "flavorRef": "1", "imageRef": self.image, "networks": [{"uuid": self.network}]});
        for (key, value) in extra.as_object().unwrap() {
            server[key] = value.clone();
        }
        json!({ "server": server })
    }

    pub async fn create(&self, extra: Value) -> String {
        let answer = self.post("/servers", self.body(extra), "2.104").await.expect(202);
        answer["server"]["id"].as_str().unwrap().to_string()
    }

    /// A server, running.
    pub async fn active(&self, extra: Value) -> String {
        let id = self.create(extra).await;
        self.wait(&id, "ACTIVE").await;
        id
    }

    pub async fn wait(&self, id: &str, status: &str) -> Value {
        let path = format!("/compute/v2.1/servers/{id}");
        let settled = |a: &Answer| a.json()["server"]["status"] == status && a.json()["server"]["OS-EXT-STS:task_state"].is_null();
        self.cloud.until(&self.tenant, &path, PATIENCE, settled).await.json()["server"].clone()
    }

    pub async fn gone(&self, id: &str) {
        self.cloud.until(&self.tenant, &format!("/compute/v2.1/servers/{id}"), PATIENCE, |a| a.status == 404).await;
    }

    pub async fn call(&self, token: &Token, method: &str, path: &str, body: Option<Value>, version: &str) -> Answer {
        let request = self.cloud.request(method, &format!("/compute/v2.1{path}")).token(token);
        let request = request.header("openstack-api-version", &format!("compute {version}"));
        match body {
            Some(body) => request.json(&body).send().await,
            None => request.send().await,
        }
    }
    pub async fn get(&self, path: &str, version: &str) -> Answer {
        self.call(&self.tenant, "GET", path, None, version).await
    }
    pub async fn post(&self, path: &str, body: Value, version: &str) -> Answer {
        self.call(&self.tenant, "POST", path, Some(body), version).await
    }
    pub async fn put(&self, path: &str, body: Value, version: &str) -> Answer {
        self.call(&self.tenant, "PUT", path, Some(body), version).await
    }
    pub async fn delete(&self, path: &str, version: &str) -> Answer {
        self.call(&self.tenant, "DELETE", path, None, version).await
    }
    pub async fn act(&self, id: &str, body: Value) -> Answer {
        self.post(&format!("/servers/{id}/action"), body, "2.104").await
    }

    /// Who has anything in placement, but for volumes that are there.
    pub async fn claimants(&self) -> Vec<String> {
        let there = self.cloud.get(&self.admin, "/volume/v3/volumes?all_tenants=1").await.expect(200);
        let volumes: Vec<&str> = there["volumes"].as_array().unwrap().iter().map(|volume| volume["id"].as_str().unwrap()).collect();
        let all = self.cloud.controller.placement.consumers().await.unwrap();
        all.into_iter().filter(|id| !volumes.contains(&id.as_str())).collect()
    }

    /// Nothing of any server is left: no port, no allocation, no guest.
    pub async fn clean(&self) {
        let ports = self.cloud.get(&self.admin, "/network/v2.0/ports?device_owner=compute:nova").await.expect(200);
        assert_eq!(ports["ports"], json!([]), "ports are left");
        assert_eq!(self.claimants().await, Vec::<String>::new(), "allocations are left");
        for host in &self.cloud.hosts {
            assert_eq!(host.hypervisor.running(), Vec::<String>::new(), "guests are left");
        }
    }
}
