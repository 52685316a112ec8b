use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::world::World;

pub async fn limits_hold_under_many_hands(w: World) {
    let (status, answer) = w.ask("admin", "PUT", "/quotas/p1", json!({"quota": {"network": 3}})).await;
    assert_eq!((status, &answer["quota"]["network"], &answer["quota"]["port"]), (200, &json!(3), &json!(500)));
    let answers = join_all((0..8).map(|_| w.ask("member:p1", "POST", "/networks", json!({"network": {}})))).await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == 201).count(), 3);
    assert!(answers.iter().filter(|(s, _)| *s != 201).all(|(s, a)| *s == 409 && a["NeutronError"]["type"] == "OverQuota"));
    let lower = json!({"quota": {"network": 1, "check_limit": true}});
    assert_eq!(w.refused("admin", "PUT", "/quotas/p1", lower, 400).await, "InvalidQuotaValue");
    assert_eq!(w.ask("admin", "PUT", "/quotas/p1", json!({"quota": {"network": 3, "force": true}})).await.0, 200);
    let details = w.get("admin", "/quotas/p1/details.json").await;
    assert_eq!(details["quota"]["network"], json!({"limit": 3, "used": 3, "reserved": 0}));
    assert_eq!(w.get("admin", "/quotas").await["quotas"][0]["project_id"], json!("p1"));
    w.get("member:p1", "/security-groups").await;
    w.ask("admin", "PUT", "/quotas/p1", json!({"quota": {"security_group_rule": 5}})).await;
    assert_eq!(w.refused("member:p1", "POST", "/security-groups", json!({"security_group": {}}), 409).await, "OverQuota");
    w.delete("admin", "/quotas/p1").await;
    assert_eq!(w.get("manager:p1", "/quotas/p1").await["quota"]["network"], json!(100));
    assert_eq!(w.get("admin", "/quotas/p1/default").await["quota"]["security_group"], json!(10));
    assert_eq!(w.refused("admin", "DELETE", "/quotas/p1", Value::Null, 404).await, "TenantQuotaNotFound");
    assert_eq!(w.refused("member:p1", "PUT", "/quotas/p1", json!({"quota": {"network": 9}}), 403).await, "PolicyNotAuthorized");
    for wrong in [json!({"quota": {"unicorn": 1}}), json!({"quota": {"network": -2}}), json!({"quota": {"network": "x"}}), json!({})] {
        assert_eq!(w.ask("admin", "PUT", "/quotas/p1", wrong.clone()).await.0, 400, "{wrong}");
    }
}
