//! `sturnus seed`: what a new cloud needs for a first try. Looks for each thing by name first, so that it can run again.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::Args;
use serde_json::{Value, json};

use super::Place;
use crate::client::Client;

#[derive(Args)]
pub struct Seed {
    /// Disk image (qcow2) that becomes the public image `cirros`
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
}

/// name, vCPUs, MiB of memory, GiB of disk
const FLAVORS: [(&str, u32, u32, u32); 5] =
    [("m1.tiny", 1, 128, 1), ("m1.small", 1, 256, 2), ("m1.medium", 2, 512, 5), ("m1.large", 4, 1024, 10), ("m1.xlarge", 8, 2048, 20)];

impl Seed {
    pub async fn run(self, place: &Place) -> Result<ExitCode> {
        let cloud = Client::login(&place.load()?.home()).await?;
        flavors(&cloud).await?;
        if let Some(file) = &self.image {
            image(&cloud, file).await?;
        }
        networks(&cloud).await?;
        Ok(ExitCode::SUCCESS)
    }
}

fn made(what: &str, name: &str) {
    println!("  {what} {name}");
}

async fn flavors(cloud: &Client) -> Result<()> {
    let present = cloud.get("compute", "/flavors").await?;
    for (i, (name, vcpus, ram, disk)) in FLAVORS.into_iter().enumerate() {
        if named(&present["flavors"], name).is_none() {
            let flavor = json!({"id": (i + 1).to_string(), "name": name, "vcpus": vcpus, "ram": ram, "disk": disk});
            cloud.post("compute", "/flavors", &json!({"flavor": flavor})).await?;
            made("flavor", name);
        }
    }
    Ok(())
}

async fn image(cloud: &Client, file: &std::path::Path) -> Result<()> {
    let present = cloud.get("image", "/v2/images?name=cirros").await?;
    let image = match named(&present["images"], "cirros") {
        Some(image) => image.clone(),
        None => {
            let body = json!({"name": "cirros", "disk_format": "qcow2", "container_format": "bare", "visibility": "public"});
            cloud.post("image", "/v2/images", &body).await?
        }
    };
    if image["status"] != "active" {
        cloud.upload("image", &format!("/v2/images/{}/file", id(&image)?), file).await?;
        made("image", "cirros");
    }
    Ok(())
}

async fn networks(cloud: &Client) -> Result<()> {
    let public = json!({"name": "public", "router:external": true, "provider:network_type": "flat", "provider:physical_network": "public"});
    let public = ensure(cloud, "network", "public", public).await?;
    let subnet = json!({
        "name": "public-subnet", "network_id": public, "ip_version": 4, "cidr": "172.24.4.0/24", "gateway_ip": "172.24.4.1", "enable_dhcp": false,
        "allocation_pools": [{"start": "172.24.4.10", "end": "172.24.4.250"}],
    });
    ensure(cloud, "subnet", "public-subnet", subnet).await?;
    let private = ensure(cloud, "network", "private", json!({"name": "private"})).await?;
    let subnet = json!({"name": "private-subnet", "network_id": private, "ip_version": 4, "cidr": "10.0.0.0/24"});
    let subnet = ensure(cloud, "subnet", "private-subnet", subnet).await?;
    let router = json!({"name": "router", "external_gateway_info": {"network_id": public}});
    let router = ensure(cloud, "router", "router", router).await?;
    let interfaces = cloud.get("network", &format!("/v2.0/ports?device_id={router}&device_owner=network:router_interface")).await?;
    if interfaces["ports"].as_array().is_none_or(Vec::is_empty) {
        let path = format!("/v2.0/routers/{router}/add_router_interface");
        cloud.call(reqwest::Method::PUT, "network", &path, Some(&json!({"subnet_id": subnet}))).await?;
        made("router interface on", "private-subnet");
    }
    Ok(())
}

/// The id of the network resource of this name, made when missing.
async fn ensure(cloud: &Client, kind: &str, name: &str, body: Value) -> Result<String> {
    let present = cloud.get("network", &format!("/v2.0/{kind}s?name={name}")).await?;
    if let Some(found) = named(&present[format!("{kind}s")], name) {
        return id(found);
    }
    let created = cloud.post("network", &format!("/v2.0/{kind}s"), &json!({kind: body})).await?;
    made(kind, name);
    id(&created[kind])
}

fn named<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|item| item["name"] == name)
}

fn id(resource: &Value) -> Result<String> {
    resource["id"].as_str().map(str::to_string).ok_or_else(|| anyhow!("a resource without an id: {resource}"))
}
