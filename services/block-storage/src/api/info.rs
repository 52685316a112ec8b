//! Version documents, and what an operator asks of the service itself.

use base::{Error, Kind, Result};
use http_api::query::parse_bool;
use http_api::{Request, Response, Routes, empty, json};
use serde_json::{Value, json};

use super::at_least;
use super::body::{self, need, only};
use crate::capabilities::Pool;
use crate::db::hosts;
use crate::{VERSIONS, Volumes, ZONE};

pub fn routes(routes: Routes<Volumes>) -> Routes<Volumes> {
    routes
        .get("/extensions", extensions)
        .get("/os-availability-zone", zones)
        .get("/os-services", services)
        .put("/os-services/{action}", service_update)
        .get("/os-hosts", hosts_index)
        .get("/os-hosts/{id}", hosts_show)
        .get("/scheduler-stats/get_pools", pools)
        .get("/capabilities/{id}", capabilities)
}

const BINARY: &str = "cinder-volume";
/// What chooses hosts is a part of the controller.
const SCHEDULER: &str = "cinder-scheduler";
const SCHEDULER_HOST: &str = "controller";

fn document(req: &Request) -> Value {
    json!({
        "id": "v3.0",
        "status": "CURRENT",
        "version": VERSIONS.max.to_string(),
        "min_version": VERSIONS.min.to_string(),
        "updated": "2026-02-03T00:00:00Z",
        "links": [
            {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"},
            {"rel": "self", "href": format!("{}/v3/", req.base_url)},
        ],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}],
    })
}

pub async fn versions(_: Volumes, req: Request) -> Result<Response> {
    json(300, &json!({"versions": [document(&req)]}))
}

pub async fn version(_: Volumes, req: Request) -> Result<Response> {
    json(200, &json!({"versions": [document(&req)]}))
}

/// What older versions had as extensions; all are part of the API now.
async fn extensions(_: Volumes, _: Request) -> Result<Response> {
    const ALL: &[(&str, &str)] = &[
        ("os-extended-services", "ExtendedServices"),
        ("os-extended-snapshot-attributes", "ExtendedSnapshotAttributes"),
        ("os-hosts", "Hosts"),
        ("os-quota-class-sets", "QuotaClasses"),
        ("os-quota-sets", "Quotas"),
        ("os-services", "Services"),
        ("os-snapshot-actions", "SnapshotActions"),
        ("os-types-extra-specs", "TypesExtraSpecs"),
        ("os-types-manage", "TypesManage"),
        ("os-used-limits", "UsedLimits"),
        ("os-vol-host-attr", "VolumeHostAttribute"),
        ("os-vol-image-meta", "VolumeImageMetadata"),
        ("os-vol-tenant-attr", "VolumeTenantAttribute"),
        ("os-volume-actions", "VolumeActions"),
        ("os-volume-transfer", "VolumeTransfer"),
        ("os-volume-type-access", "VolumeTypeAccess"),
        ("os-availability-zone", "AvailabilityZones"),
        ("qos-specs", "Qos_specs_manage"),
        ("scheduler-stats", "Scheduler_stats"),
        ("encryption", "VolumeTypeEncryption"),
        ("capabilities", "Capabilities"),
    ];
    let rows: Vec<Value> = ALL
        .iter()
        .map(
            |(alias, name)| json!({"alias": alias, "name": name, "description": name, "updated": "2013-04-18T00:00:00+00:00", "links": []}),
        )
        .collect();
    json(200, &json!({ "extensions": rows }))
}

async fn zones(volumes: Volumes, _: Request) -> Result<Response> {
    let all = volumes.core.store.read(hosts::host_list_in).await?;
    let available = all.is_empty() || all.iter().any(|h| !h.disabled);
    json(200, &json!({"availabilityZoneInfo": [{"zoneName": ZONE, "zoneState": {"available": available}}]}))
}

async fn services(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("volume_extension:services:index", &req.ctx, &())?;
    let all = volumes.core.store.read(hosts::host_list_in).await?;
    let now = base::Timestamp::now();
    let row = |binary: &str, host: String, up: bool, disabled: bool, frozen: bool, at: base::Timestamp, reason: Option<String>| {
        let mut row = json!({
            "binary": binary,
            "host": host,
            "zone": ZONE,
            "status": if disabled { "disabled" } else { "enabled" },
            "state": if up { "up" } else { "down" },
            "updated_at": at.iso_micros(),
            "disabled_reason": reason,
        });
        if binary == BINARY {
            row["replication_status"] = json!("disabled");
            row["active_backend_id"] = Value::Null;
            row["frozen"] = json!(frozen);
        }
        if at_least(&req, 7) {
            row["cluster"] = Value::Null;
        }
        if at_least(&req, 49) && binary == BINARY {
            row["backend_state"] = json!(if up { "up" } else { "down" });
        }
        row
    };
    let mut rows = vec![row(SCHEDULER, SCHEDULER_HOST.into(), true, false, false, now, None)];
    rows.extend(all.iter().flat_map(Pool::of).map(|pool| {
        let h = pool.host;
        let at = if h.connected { now } else { h.updated_at };
        row(BINARY, pool.backend(), h.connected, h.disabled, h.frozen, at, h.disabled_reason.clone())
    }));
    let keep = |name: &str, key: &str| -> Option<(String, String)> { req.query.get(name).map(|v| (key.to_string(), v.to_string())) };
    for (key, value) in [keep("host", "host"), keep("binary", "binary"), keep("service", "binary")].into_iter().flatten() {
        rows.retain(|r| {
            let own = r[key.as_str()].as_str().unwrap_or_default();
            own == value || (key == "host" && own.split('@').next() == Some(value.as_str()))
        });
    }
    json(200, &json!({ "services": rows }))
}

async fn service_update(volumes: Volumes, req: Request) -> Result<Response> {
    let action = req.param("action").to_string();
    if matches!(action.as_str(), "freeze" | "thaw") {
        return freeze(volumes, req, action == "freeze").await;
    }
    volumes.authorize("volume_extension:services:update", &req.ctx, &())?;
    if !matches!(action.as_str(), "enable" | "disable" | "disable-log-reason") {
        return Err(Error::new(Kind::NotFound, "Unknown action"));
    }
    let map = req.object()?;
    only(&map, &["host", "binary", "service", "disabled_reason"])?;
    let host = need("host", body::text(&map, "host")?.filter(|h| !h.is_empty()))?;
    let binary = body::text(&map, "binary")?.or(body::text(&map, "service")?).unwrap_or_else(|| BINARY.into());
    let reason = body::text(&map, "disabled_reason")?;
    if action == "disable-log-reason" && reason.as_deref().is_none_or(str::is_empty) {
        return Err(Error::invalid("Missing required element 'disabled_reason' in request body."));
    }
    let disabled = action != "enable";
    let name = host.split('@').next().unwrap_or_default().to_string();
    let kept = reason.clone().filter(|_| disabled);
    let missing = Error::new(Kind::NotFound, format!("Service {binary} could not be found on host {host}."));
    if binary != BINARY || !volumes.core.store.write(move |tx| hosts::host_disable_in(tx, &name, disabled, kept.as_deref())).await? {
        return Err(missing);
    }
    let mut body = json!({
        "host": host,
        "service": binary,
        "binary": binary,
        "disabled": disabled,
        "status": if disabled { "disabled" } else { "enabled" },
    });
    if action == "disable-log-reason" {
        body["disabled_reason"] = json!(reason);
    }
    json(200, &body)
}

/// A frozen host keeps what it has: nothing is made there, changed or removed.
async fn freeze(volumes: Volumes, req: Request, frozen: bool) -> Result<Response> {
    volumes.authorize(if frozen { "volume:freeze_host" } else { "volume:thaw_host" }, &req.ctx, &())?;
    let map = req.object()?;
    only(&map, &["host"])?;
    let host = need("host", body::text(&map, "host")?.filter(|h| !h.is_empty()))?;
    let name = host.split('@').next().unwrap_or_default().to_string();
    if !volumes.core.store.write(move |tx| hosts::host_freeze_in(tx, &name, frozen)).await? {
        return Err(Error::invalid(format!("Service {BINARY} could not be found on host {host}.")));
    }
    empty(200)
}

async fn hosts_index(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("volume_extension:hosts", &req.ctx, &())?;
    let all = volumes.core.store.read(hosts::host_list_in).await?;
    let row = |host: &str, service: &str, up: bool, disabled: bool, at: base::Timestamp| {
        json!({
            "host_name": host,
            "service": service,
            "zone": ZONE,
            "service-status": if up { "available" } else { "unavailable" },
            "service-state": if disabled { "disabled" } else { "enabled" },
            "last-update": at.iso_micros(),
        })
    };
    let mut rows = vec![row(SCHEDULER_HOST, SCHEDULER, true, false, base::Timestamp::now())];
    let pools = all.iter().flat_map(Pool::of);
    rows.extend(pools.map(|pool| row(&pool.backend(), BINARY, pool.host.connected, pool.host.disabled, pool.host.updated_at)));
    json(200, &json!({ "hosts": rows }))
}

async fn hosts_show(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("volume_extension:hosts", &req.ctx, &())?;
    let id = req.param("id").to_string();
    let rows = volumes
        .core
        .store
        .read(|tx| {
            let all = hosts::host_list_in(tx)?;
            let missing = || Error::new(Kind::NotFound, format!("Host {id} could not be found."));
            let host = all.iter().find(|h| h.name == id || Pool::of(h).any(|pool| pool.backend() == id)).ok_or_else(missing)?;
            let sql = "SELECT v.project_id, COUNT(*), CAST(COALESCE(SUM(v.size), 0) AS BIGINT), \
                       CAST(COALESCE(SUM((SELECT COUNT(*) FROM volume_snapshot s WHERE s.volume_id = v.id)), 0) AS BIGINT), \
                       CAST(COALESCE(SUM((SELECT SUM(s.size) FROM volume_snapshot s WHERE s.volume_id = v.id)), 0) AS BIGINT) \
                       FROM volume v WHERE v.host_id = ?1 GROUP BY v.project_id ORDER BY v.project_id";
            tx.query(sql, &[host.id.as_str().into()], |r| Ok((r.text(0)?, [r.int(1)?, r.int(2)?, r.int(3)?, r.int(4)?])))
        })
        .await?;
    let row = |project: &str, n: [i64; 4]| {
        json!({"resource": {
            "host": id, "project": project, "volume_count": n[0].to_string(), "total_volume_gb": n[1].to_string(),
            "snapshot_count": n[2].to_string(), "total_snapshot_gb": n[3].to_string(),
        }})
    };
    let mut sum = [0; 4];
    for (_, n) in &rows {
        sum.iter_mut().zip(n).for_each(|(all, n)| *all += n);
    }
    let mut shown = vec![row("(total)", sum)];
    shown.extend(rows.iter().map(|(project, n)| row(project, *n)));
    json(200, &json!({ "host": shown }))
}

async fn pools(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("scheduler_extension:scheduler_stats:get_pools", &req.ctx, &())?;
    let detail = req.query.get("detail").and_then(parse_bool).unwrap_or(false);
    let all = volumes
        .core
        .store
        .read(|tx| {
            let mut all = Vec::new();
            let there = hosts::host_list_in(tx)?;
            let there: Vec<Pool> = there.iter().filter(|h| h.connected).flat_map(Pool::of).collect();
            let stocks = volumes.stocks_in(tx, &there)?;
            for pool in there.into_iter().filter(|pool| req.query.get("name").is_none_or(|name| name == pool.full())) {
                let mut row = json!({"name": pool.full()});
                if detail {
                    let (count, allocated) = hosts::allocated_in(tx, &pool)?;
                    let mut all = pool.capabilities(count, allocated, &stocks.of(&pool));
                    all.insert("timestamp".into(), json!(pool.host.updated_at.iso_micros()));
                    row["capabilities"] = Value::Object(all);
                }
                all.push(row);
            }
            Ok(all)
        })
        .await?;
    json(200, &json!({ "pools": all }))
}

async fn capabilities(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("volume_extension:capabilities", &req.ctx, &())?;
    let id = req.param("id");
    let all = volumes.core.store.read(hosts::host_list_in).await?;
    let pool = all.iter().flat_map(Pool::of).find(|pool| pool.backend() == id || pool.host.name == id || pool.full() == id);
    let pool = pool.ok_or_else(|| Error::new(Kind::NotFound, format!("Can't find service: {id}")))?;
    let on = |title: &str| json!({"title": title, "description": title, "type": "boolean"});
    json(
        200,
        &json!({
            "namespace": format!("OS::Storage::Capabilities::{id}"),
            "vendor_name": "Sturnus",
            "volume_backend_name": pool.name(),
            "pool_name": null,
            "driver_version": env!("CARGO_PKG_VERSION"),
            "storage_protocol": pool.protocol(),
            "display_name": if pool.storage().is_some() { "Volumes in storage that hosts share" } else { "Volumes on the disk of a host" },
            "description": null,
            "visibility": null,
            "replication_targets": [],
            "properties": {"thin_provisioning": on("Thin Provisioning"), "compression": on("Compression"), "qos": on("QoS")},
        }),
    )
}
