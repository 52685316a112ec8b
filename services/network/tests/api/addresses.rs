//! Addresses under many hands.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::world::{World, text};

pub async fn concurrent_ports_never_share_and_stay_in_their_pools(w: World) {
    let net = w.network("member:p1").await;
    let pools = json!([{"start": "10.0.0.10", "end": "10.0.0.29"}, {"start": "10.0.0.50", "end": "10.0.0.60"}]);
    let body = json!({"network_id": net, "cidr": "10.0.0.0/24", "ip_version": 4, "enable_dhcp": false, "allocation_pools": pools});
    w.make("member:p1", "/subnets", "subnet", body).await;
    let body = json!({"port": {"network_id": net}});
    let answers = join_all((0..40).map(|_| w.ask("member:p1", "POST", "/ports", body.clone()))).await;
    let mut taken = BTreeSet::new();
    let mut refused = 0;
    for (status, answer) in &answers {
        match status {
            201 => {
                let at = text(&answer["port"]["fixed_ips"][0]["ip_address"]);
                let last: u8 = at.strip_prefix("10.0.0.").unwrap().parse().unwrap();
                assert!((10..=29).contains(&last) || (50..=60).contains(&last), "{at}");
                assert!(taken.insert(at));
            }
            409 => {
                assert_eq!(answer["NeutronError"]["type"], "IpAddressGenerationFailure");
                refused += 1;
            }
            other => panic!("{other}: {answer}"),
        }
    }
    assert_eq!((taken.len(), refused), (31, 9));
    // One given back can be had again.
    let one = answers.iter().find(|(status, _)| *status == 201).unwrap().1["port"].clone();
    w.delete("member:p1", &format!("/ports/{}", text(&one["id"]))).await;
    let again = w.port("member:p1", &net).await;
    assert_eq!(again["fixed_ips"], one["fixed_ips"]);
}

pub async fn of_many_that_want_one_address_one_gets_it(w: World) {
    let net = w.network("member:p1").await;
    w.subnet("member:p1", &net, "10.0.0.0/24").await;
    let body = json!({"port": {"network_id": net, "fixed_ips": [{"ip_address": "10.0.0.99"}]}});
    let answers = join_all((0..12).map(|_| w.ask("member:p1", "POST", "/ports", body.clone()))).await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == 201).count(), 1);
    assert!(answers.iter().filter(|(status, _)| *status != 201).all(|(_, a)| a["NeutronError"]["type"] == "IpAddressInUse"));
}

pub async fn both_families_and_stateful_ipv6(w: World) {
    let net = w.network("member:p1").await;
    w.subnet("member:p1", &net, "10.0.0.0/24").await;
    let body = json!({"network_id": net, "cidr": "fd01::/64", "ip_version": 6, "ipv6_ra_mode": "dhcpv6-stateful", "ipv6_address_mode": "dhcpv6-stateful"});
    w.make("member:p1", "/subnets", "subnet", body).await;
    let body = json!({"network_id": net, "cidr": "fd02::/64", "ip_version": 6, "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"});
    let auto = text(&w.make("member:p1", "/subnets", "subnet", body).await["id"]);
    let port = w.port("member:p1", &net).await;
    let fixed: Vec<Value> = port["fixed_ips"].as_array().unwrap().clone();
    assert_eq!(fixed.len(), 3, "{fixed:?}");
    let own = text(&fixed.iter().find(|f| f["subnet_id"] == json!(auto)).unwrap()["ip_address"]);
    assert!(own.starts_with("fd02::f816:3eff:fe"), "{own}");
    let body = json!({"port": {"network_id": net, "fixed_ips": [{"subnet_id": auto, "ip_address": "fd02::77"}]}});
    assert_eq!(w.refused("member:p1", "POST", "/ports", body, 400).await, "InvalidInput");
    let availability = w.get("admin", &format!("/network-ip-availabilities/{net}")).await;
    let rows = availability["network_ip_availability"]["subnet_ip_availability"].as_array().unwrap();
    assert_eq!(rows.iter().find(|r| r["ip_version"] == 4).unwrap()["total_ips"], json!(253));
}
