//! `/usages` and `/resource_providers/{uuid}/usages`.

use base::{Error, Result};
use http_api::{Request, Response, json};
use serde_json::{Map, Value, json};
use store::{Select, params};

use super::{accepts_json, admit, dated, provider_in, since, v};
use crate::filter::only_known;
use crate::{Placement, names};

pub async fn provider(placement: Placement, req: Request) -> Result<Response> {
    admit(&placement, "placement:resource_providers:usages", &req)?;
    let uuid = req.param("uuid");
    let (provider, rows) = placement
        .core
        .store
        .read(|tx| {
            let sql = "SELECT i.class, CAST(COALESCE((SELECT SUM(a.used) FROM allocation a WHERE a.provider = i.provider AND a.class = i.class), 0) AS BIGINT)
                       FROM inventory i WHERE i.provider = ?1 ORDER BY i.class";
            Ok((provider_in(tx, uuid)?, tx.query(sql, params![uuid], |r| Ok((r.text(0)?, r.int(1)?)))?))
        })
        .await?;
    let usages: Map<String, Value> = rows.into_iter().map(|(class, used)| (class, json!(used))).collect();
    dated(&req, json(200, &json!({"resource_provider_generation": provider.generation, "usages": usages}))?, Some(provider.updated_at))
}

pub async fn project(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(9))?;
    let known: &[&str] = if req.version >= v(38) { &["project_id", "user_id", "consumer_type"] } else { &["project_id", "user_id"] };
    only_known(&req.query, known)?;
    let project = req
        .query
        .get("project_id")
        .ok_or_else(|| Error::invalid("Invalid query string parameters: 'project_id' is a required property"))?;
    accepts_json(&req)?;
    placement.core.authorize("placement", "placement:usages", &req.ctx, &[("project_id", project)])?;
    for name in known {
        if req.query.get(name).is_some_and(|value| value.is_empty() || value.len() > 255) {
            return Err(Error::invalid(format!("Invalid query string parameters: {name} must have 1 to 255 characters")));
        }
    }
    let kind = req.query.get("consumer_type");
    if let Some(kind) = kind.filter(|k| !names::is_name(k) && !matches!(*k, "all" | "unknown")) {
        return Err(Error::invalid(format!("Invalid query string parameters: '{kind}' is no type of consumers")));
    }
    let rows = placement
        .core
        .store
        .read(|tx| {
            let mut select =
                Select::new("SELECT c.kind, a.class, a.used, a.consumer FROM allocation a JOIN consumer c ON c.uuid = a.consumer")
                    .eq("c.project_id", project)
                    .opt_eq("c.user_id", req.query.get("user_id"));
            if let Some(kind) = kind.filter(|k| *k != "all") {
                select = select.eq("c.kind", if kind == "unknown" { "" } else { kind });
            }
            select.fetch(tx, |r| Ok((r.text(0)?, r.text(1)?, r.int(2)?, r.text(3)?)))
        })
        .await?;
    if req.version < v(38) {
        let mut usages: Map<String, Value> = Map::new();
        for (_, class, used, _) in rows {
            add(&mut usages, &class, used);
        }
        return dated(&req, json(200, &json!({ "usages": usages }))?, None);
    }
    let mut groups: std::collections::BTreeMap<String, (Map<String, Value>, std::collections::BTreeSet<String>)> = Default::default();
    for (of, class, used, consumer) in rows {
        let name = match (kind, of.as_str()) {
            (Some("all"), _) => "all".to_string(),
            (_, "") => "unknown".to_string(),
            (_, of) => of.to_string(),
        };
        let group = groups.entry(name).or_default();
        add(&mut group.0, &class, used);
        group.1.insert(consumer);
    }
    let usages: Map<String, Value> = groups
        .into_iter()
        .map(|(name, (mut usages, consumers))| {
            usages.insert("consumer_count".into(), json!(consumers.len()));
            (name, Value::Object(usages))
        })
        .collect();
    dated(&req, json(200, &json!({ "usages": usages }))?, None)
}

fn add(usages: &mut Map<String, Value>, class: &str, used: i64) {
    let sum = usages.get(class).and_then(Value::as_i64).unwrap_or(0) + used;
    usages.insert(class.into(), json!(sum));
}
