//! `/os-simple-tenant-usage` and `/os-instance_usage_audit_log` (compute API reference, "Usage reports", "Server usage audit log").

use base::{Error, Result, Timestamp};
use http_api::{Page, Request, Response, Routes, Version, json};
use serde_json::{Value, json};
use store::{Dir, Select, Tx};

use super::servers::no_query;
use crate::Compute;
use crate::db::nodes::node_list_in;
use crate::db::servers::{SERVER_COLUMNS, Server, server_fetch_in, server_row};

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes
        .get("/os-simple-tenant-usage", index)
        .get("/os-simple-tenant-usage/{project}", show)
        .get("/os-instance_usage_audit_log", audit)
        .get("/os-instance_usage_audit_log/{before}", audit_before)
}

const WITH_PAGING: Version = Version::new(2, 40);
const STRICT: Version = Version::new(2, 75);

/// What a report is asked for.
struct Asked {
    start: Timestamp,
    stop: Timestamp,
    detailed: bool,
    page: Page,
    limit: u64,
}

fn asked(compute: &Compute, req: &Request, also: &[&str]) -> Result<Asked> {
    let paging = req.version >= WITH_PAGING;
    let known = |name: &str| matches!(name, "start" | "end") || also.contains(&name) || (paging && matches!(name, "limit" | "marker"));
    if let Some((name, _)) = req.query.0.iter().find(|(n, _)| req.version >= STRICT && !known(n)) {
        return Err(Error::invalid(format!("Additional properties are not allowed ('{name}' was unexpected)")));
    }
    let now = Timestamp::now();
    let time = |name: &str| match req.query.get(name).filter(|text| !text.is_empty()) {
        Some(text) => Timestamp::parse(text).map(Some).ok_or_else(|| Error::invalid("Datetime is in invalid format")),
        None => Ok(None),
    };
    let (start, stop) = (time("start")?.unwrap_or(Timestamp(now.0 - 1)), time("end")?.unwrap_or(now));
    if start >= stop {
        return Err(Error::invalid("Invalid start time. The start time cannot occur after the end time."));
    }
    let max = compute.core.config.int("api.max_limit");
    let none = Page { limit: None, marker: None, sort: Vec::new(), reverse: false };
    let page = if paging { Page::from_query(&req.query, max, &[])? } else { none };
    let limit = page.fetch_limit(max);
    Ok(Asked { start, stop: stop.min(now), detailed: req.query.get("detailed") == Some("1"), page, limit })
}

/// The servers that ran in the time, the oldest first.
fn servers_in(tx: &Tx, asked: &Asked, project: Option<&str>) -> Result<Vec<Server>> {
    let mut select = Select::new(format!("SELECT {SERVER_COLUMNS} FROM server"))
        .cond("launched_at IS NOT NULL AND launched_at < ?", [asked.stop.into()])
        .cond("terminated_at IS NULL OR terminated_at > ?", [asked.start.into()])
        .opt_eq("project_id", project)
        .order(&[("created_at", Dir::Asc), ("id", Dir::Asc)]);
    if let Some(marker) = &asked.page.marker {
        let missing = || Error::invalid(format!("Marker {marker} could not be found."));
        let last = server_fetch_in(tx, marker, true)?.ok_or_else(missing)?;
        select = select.after(vec![last.created_at.into(), last.id.into()]);
    }
    select.limit(asked.limit).fetch(tx, server_row)
}

fn micros(n: i64) -> f64 {
    n as f64 / 1e6
}

/// What one server used, and how many hours it ran in the time.
fn usage(server: &Server, asked: &Asked) -> (Value, f64) {
    let launched = server.launched_at.unwrap_or(server.created_at);
    let ended = server.terminated_at;
    let stop = ended.map_or(asked.stop, |at| at.min(asked.stop));
    let hours = micros(stop.0 - launched.max(asked.start).0).max(0.0) / 3600.0;
    let flavor = server.doc.flavor.as_ref();
    let view = json!({
        "hours": hours,
        "flavor": flavor.map_or("", |f| f.name.as_str()),
        "instance_id": server.id,
        "name": server.display_name,
        "tenant_id": server.project_id,
        "memory_mb": server.memory_mb,
        "local_gb": flavor.map_or(0, |f| f.root_gb + f.ephemeral_gb),
        "vcpus": server.vcpus,
        "started_at": launched.iso_micros(),
        "ended_at": ended.map(|at| at.iso_micros()),
        "state": if ended.is_some() { "terminated" } else { server.vm_state.as_str() },
        "uptime": ended.unwrap_or_else(Timestamp::now).since(launched).as_secs(),
    });
    (view, hours)
}

/// The sums of each project, in the order in which their servers appear.
fn sums(servers: &[Server], asked: &Asked) -> Vec<Value> {
    let mut projects: Vec<Value> = Vec::new();
    for server in servers {
        let (view, hours) = usage(server, asked);
        let at = projects.iter().position(|p| p["tenant_id"] == server.project_id.as_str()).unwrap_or_else(|| {
            let mut sum = json!({
                "tenant_id": server.project_id,
                "total_local_gb_usage": 0.0,
                "total_vcpus_usage": 0.0,
                "total_memory_mb_usage": 0.0,
                "total_hours": 0.0,
                "start": asked.start.iso_micros(),
                "stop": asked.stop.iso_micros(),
            });
            if asked.detailed {
                sum["server_usages"] = json!([]);
            }
            projects.push(sum);
            projects.len() - 1
        });
        let sum = &mut projects[at];
        let amount = |name: &str| view[name].as_f64().unwrap_or(0.0);
        for (name, each) in [
            ("total_local_gb_usage", amount("local_gb")),
            ("total_vcpus_usage", amount("vcpus")),
            ("total_memory_mb_usage", amount("memory_mb")),
            ("total_hours", 1.0),
        ] {
            sum[name] = json!(sum[name].as_f64().unwrap_or(0.0) + each * hours);
        }
        if let Some(list) = sum.get_mut("server_usages").and_then(Value::as_array_mut) {
            list.push(view);
        }
    }
    projects
}

/// The link to the next page, when this one is full.
fn next(req: &Request, asked: &Asked, servers: &[Server]) -> Option<Value> {
    let last = servers.last().filter(|_| req.version >= WITH_PAGING && servers.len() as u64 == asked.limit)?;
    Some(json!([{"rel": "next", "href": http_api::page::link_with_marker(req, &last.id, None)}]))
}

async fn index(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-simple-tenant-usage:list", &req.ctx, &())?;
    let asked = asked(&compute, &req, &["detailed"])?;
    let servers = compute.core.store.read(|tx| servers_in(tx, &asked, None)).await?;
    let mut body = json!({"tenant_usages": sums(&servers, &asked)});
    if let Some(links) = next(&req, &asked, &servers) {
        body["tenant_usages_links"] = links;
    }
    json(200, &body)
}

async fn show(compute: Compute, req: Request) -> Result<Response> {
    let project = req.param("project");
    compute.authorize("os_compute_api:os-simple-tenant-usage:show", &req.ctx, &[("project_id", project)])?;
    let asked = Asked { detailed: true, ..asked(&compute, &req, &[])? };
    let servers = compute.core.store.read(|tx| servers_in(tx, &asked, Some(project))).await?;
    let mut body = json!({"tenant_usage": sums(&servers, &asked).pop().unwrap_or_else(|| json!({}))});
    if let Some(links) = next(&req, &asked, &servers) {
        body["tenant_usage_links"] = links;
    }
    json(200, &body)
}

async fn audit(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-instance-usage-audit-log:list", &req.ctx, &())?;
    no_query(&req)?;
    json(200, &json!({"instance_usage_audit_logs": audit_view(&compute, Timestamp::now()).await?}))
}

async fn audit_before(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-instance-usage-audit-log:show", &req.ctx, &())?;
    no_query(&req)?;
    let text = req.param("before");
    let plain = text.as_bytes().get(10) == Some(&b' ') && text.bytes().all(|b| b.is_ascii_digit() || b"-: .".contains(&b));
    let before = Timestamp::parse(text).filter(|_| plain && text.len() >= 19);
    let before = before.ok_or_else(|| Error::invalid(format!("Invalid timestamp for date {text}")))?;
    json(200, &json!({"instance_usage_audit_log": audit_view(&compute, before).await?}))
}

/// The month that ended last before a time, as its first second and the next month's.
fn month_before(time: Timestamp) -> (String, String) {
    let text = time.iso_plain();
    let number = |part: Option<&str>| part.and_then(|p| p.parse::<i32>().ok()).unwrap_or(1);
    let mut parts = text.split('-');
    let (year, month) = (number(parts.next()), number(parts.next()));
    let earlier = if month == 1 { (year - 1, 12) } else { (year, month - 1) };
    let first = |(year, month): (i32, i32)| format!("{year:04}-{month:02}-01 00:00:00");
    (first(earlier), first((year, month)))
}

/// Hosts keep no logs of audits: as upstream without `instance_usage_audit`, none has run anywhere. Usage is told by events.
async fn audit_view(compute: &Compute, before: Timestamp) -> Result<Value> {
    let hosts: Vec<String> = compute.core.store.read(node_list_in).await?.into_iter().map(|n| n.name).collect();
    let (begin, end) = month_before(before);
    let done = if hosts.is_empty() { "ALL".to_string() } else { format!("0 of {}", hosts.len()) };
    Ok(json!({
        "period_beginning": begin,
        "period_ending": end,
        "num_hosts": hosts.len(),
        "num_hosts_done": 0,
        "num_hosts_running": 0,
        "num_hosts_not_run": hosts.len(),
        "hosts_not_run": hosts,
        "total_instances": 0,
        "total_errors": 0,
        "overall_status": format!("{done} hosts done. 0 errors."),
        "log": {},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_month_before_is_the_one_that_is_over() {
        let of = |text: &str| month_before(Timestamp::parse(text).unwrap());
        assert_eq!(of("2026-01-31 10:00:00"), ("2025-12-01 00:00:00".into(), "2026-01-01 00:00:00".into()));
        assert_eq!(of("2026-12-01 00:00:00"), ("2026-11-01 00:00:00".into(), "2026-12-01 00:00:00".into()));
    }
}
