use serde_json::{Value, json};

use crate::world::{World, text};

pub async fn the_default_group_is_there_when_it_is_looked_for(w: World) {
    let groups = w.get("member:p1", "/security-groups").await["security_groups"].clone();
    assert_eq!((groups.as_array().unwrap().len(), &groups[0]["name"]), (1, &json!("default")));
    let rules = groups[0]["security_group_rules"].as_array().unwrap();
    assert_eq!(rules.len(), 4);
    assert_eq!(rules.iter().filter(|r| r["remote_group_id"] == groups[0]["id"] && r["direction"] == "ingress").count(), 2);
    assert!(rules.iter().all(|r| r["tenant_id"] == "p1" && r["belongs_to_default_sg"] == true && r.get("name").is_none()));
    let id = text(&groups[0]["id"]);
    assert_eq!(
        w.refused("member:p1", "DELETE", &format!("/security-groups/{id}"), Value::Null, 409).await,
        "SecurityGroupCannotRemoveDefault"
    );
    let rename = json!({"security_group": {"name": "other"}});
    assert_eq!(w.refused("member:p1", "PUT", &format!("/security-groups/{id}"), rename, 409).await, "SecurityGroupCannotUpdateDefault");
    let again = json!({"security_group": {"name": "default"}});
    assert_eq!(w.refused("member:p1", "POST", "/security-groups", again, 409).await, "SecurityGroupDefaultAlreadyExists");
}

pub async fn groups_and_their_rules(w: World) {
    let group = w.make("member:p1", "/security-groups", "security_group", json!({"name": "web"})).await;
    let id = text(&group["id"]);
    assert_eq!(group["security_group_rules"].as_array().unwrap().len(), 2);
    let rule = json!({"security_group_id": id, "direction": "ingress", "protocol": "tcp", "port_range_min": 80, "port_range_max": 80});
    let made = w.make("member:p1", "/security-group-rules", "security_group_rule", rule.clone()).await;
    assert_eq!((&made["ethertype"], &made["protocol"], &made["remote_ip_prefix"]), (&json!("IPv4"), &json!("tcp"), &Value::Null));
    let by_number = json!({"security_group_rule": {"security_group_id": id, "direction": "ingress", "protocol": 6, "port_range_min": 80, "port_range_max": 80}});
    assert_eq!(w.refused("member:p1", "POST", "/security-group-rules", by_number, 409).await, "SecurityGroupRuleExists");
    let base = json!({"security_group_id": id, "direction": "ingress"});
    for (more, status, name) in [
        (json!({"direction": "sideways"}), 400, "HTTPBadRequest"),
        (json!({"protocol": "bad_protocol_name"}), 400, "HTTPBadRequest"),
        (json!({"ethertype": "bad"}), 400, "HTTPBadRequest"),
        (json!({"protocol": 58}), 400, "SecurityGroupEthertypeConflictWithProtocol"),
        (json!({"remote_ip_prefix": "192.168.1./24"}), 400, "HTTPBadRequest"),
        (json!({"remote_group_id": "bad"}), 404, "SecurityGroupNotFound"),
        (json!({"remote_group_id": "0e9b4a4e-6f77-4c5e-9b0c-0d5a4ad9a8e7"}), 404, "SecurityGroupNotFound"),
        (json!({"security_group_id": "0e9b4a4e-6f77-4c5e-9b0c-0d5a4ad9a8e7"}), 404, "SecurityGroupNotFound"),
        (json!({"remote_ip_prefix": "10.0.0.0/8", "remote_group_id": id}), 400, "SecurityGroupMultipleRemoteEntites"),
        (json!({"protocol": "tcp", "port_range_min": 65536, "port_range_max": 65537}), 400, "HTTPBadRequest"),
    ] {
        let mut body = base.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let body = json!({"security_group_rule": body});
        assert_eq!(w.refused("member:p1", "POST", "/security-group-rules", body, status).await, name, "{more}");
    }
    assert_eq!(
        w.refused("member:p2", "GET", &format!("/security-group-rules/{}", text(&made["id"])), Value::Null, 404).await,
        "SecurityGroupRuleNotFound"
    );
    let theirs = json!({"security_group_rule": base});
    assert_eq!(w.refused("member:p2", "POST", "/security-group-rules", theirs, 404).await, "SecurityGroupNotFound");
    let rename = json!({"security_group": {"name": "default"}});
    assert_eq!(w.refused("member:p1", "PUT", &format!("/security-groups/{id}"), rename, 409).await, "SecurityGroupDefaultAlreadyExists");
    w.delete("member:p1", &format!("/security-group-rules/{}", text(&made["id"]))).await;
    let net = w.network("member:p1").await;
    let loose = w.make("member:p1", "/security-groups", "security_group", json!({"stateful": false})).await;
    let mixed = json!({"port": {"network_id": net, "security_groups": [id, loose["id"]]}});
    assert_eq!(w.refused("member:p1", "POST", "/ports", mixed, 409).await, "SecurityGroupConflict");
    let twice = json!({"port": {"network_id": net, "security_groups": [id, id]}});
    assert_eq!(w.refused("member:p1", "POST", "/ports", twice, 400).await, "HTTPBadRequest");
    let port = w.make("member:p1", "/ports", "port", json!({"network_id": net, "security_groups": [id]})).await;
    assert_eq!(w.refused("member:p1", "DELETE", &format!("/security-groups/{id}"), Value::Null, 409).await, "SecurityGroupInUse");
    assert_eq!(
        w.refused("member:p1", "PUT", &format!("/security-groups/{id}"), json!({"security_group": {"stateful": false}}), 409).await,
        "SecurityGroupInUse"
    );
    w.delete("member:p1", &format!("/ports/{}", text(&port["id"]))).await;
    w.delete("member:p1", &format!("/security-groups/{id}")).await;
}
