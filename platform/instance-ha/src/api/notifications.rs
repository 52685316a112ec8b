//! `/notifications`.

use base::{Error, Result, Timestamp};
use compute::fields::{self, Field, Fields};
use http_api::{Request, Response, Routes, Version, json};
use serde_json::{Map, Value, json};

use super::{filtered, listing, time};
use crate::InstanceHa;
use crate::db::{Listed, Notification};
use crate::notifications::{KINDS, New, STATUSES, notification_get_in};

const WITH_DETAILS: Version = Version::new(1, 1);
const SORT: &[(&str, &str)] = &[
    ("id", "id"),
    ("notification_uuid", "uuid"),
    ("generated_time", "generated_time"),
    ("source_host_uuid", "source_host_uuid"),
    ("type", "type"),
    ("payload", "payload"),
    ("status", "status"),
    ("created_at", "created_at"),
    ("updated_at", "updated_at"),
];
const EVENTS: &[&str] = &["STARTED", "STOPPED"];
const HOST_STATUSES: &[&str] = &["NORMAL", "UNKNOWN"];
const CLUSTER_STATUSES: &[&str] = &["ONLINE", "OFFLINE"];

pub fn routes(routes: Routes<InstanceHa>) -> Routes<InstanceHa> {
    routes.get("/notifications", index).post("/notifications", create).get("/notifications/{notification_id}", show)
}

fn view(notification: &Notification) -> Value {
    json!({
        "id": notification.id,
        "notification_uuid": notification.uuid,
        "type": notification.kind,
        "source_host_uuid": notification.source_host_uuid,
        "failover_segment_uuid": notification.segment_uuid,
        "generated_time": notification.generated_time.iso_micros(),
        "payload": notification.payload,
        "status": notification.status,
        "message": notification.message,
        "created_at": notification.created_at.iso_micros(),
        "updated_at": time(notification.updated_at),
        "deleted": false,
        "deleted_at": null,
    })
}

async fn index(ha: InstanceHa, req: Request) -> Result<Response> {
    ha.authorize("os_masakari_api:notifications:index", &req.ctx)?;
    for (name, words) in [("status", STATUSES), ("type", KINDS)] {
        if let Some(word) = req.query.get(name).filter(|word| !words.contains(word)) {
            return Err(Error::invalid(format!("Invalid value for {name}: '{word}' is none of {}.", words.join(", "))));
        }
    }
    let mut select = filtered(&req, Notification::select(), &["status", "source_host_uuid", "type"]);
    if let Some(text) = req.query.get("generated-since") {
        let since = Timestamp::parse(text).ok_or_else(|| Error::invalid("Invalid generated-since value"))?;
        select = select.ge("generated_time", since);
    }
    let found: Vec<Notification> = ha.list(listing(&req, select, SORT)?).await?;
    json(200, &json!({"notifications": found.iter().map(view).collect::<Vec<_>>()}))
}

async fn show(ha: InstanceHa, req: Request) -> Result<Response> {
    ha.authorize("os_masakari_api:notifications:detail", &req.ctx)?;
    let notification = ha.core.store.read(|tx| notification_get_in(tx, req.param("notification_id"))).await?;
    let mut view = view(&notification);
    if req.version >= WITH_DETAILS {
        view["recovery_workflow_details"] = notification.details;
    }
    json(200, &json!({ "notification": view }))
}

async fn create(ha: InstanceHa, req: Request) -> Result<Response> {
    ha.authorize("os_masakari_api:notifications:create", &req.ctx)?;
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let new = root.need("notification", |f| {
        let mut of = Fields::of(f)?;
        let kind = of.need("type", fields::one_of(KINDS))?;
        let hostname = of.need("hostname", fields::fqdn)?;
        let generated_time = of.need("generated_time", moment)?;
        let payload = of.need("payload", |f| payload(kind, f))?;
        of.finish()?;
        Ok(New { kind: kind.to_string(), hostname, generated_time, payload })
    })?;
    root.finish()?;
    let notification = ha.notification_create(new).await?;
    json(202, &json!({"notification": view(&notification)}))
}

fn moment(f: Field) -> Result<Timestamp> {
    let text = fields::text(1, 64)(f)?;
    Timestamp::parse(&text).ok_or_else(|| f.wrong(format!("'{text}' is not a 'date-time'")))
}

/// What a notification of this type says, as it was said.
fn payload(kind: &str, f: Field) -> Result<Value> {
    let mut of = Fields::of(f)?;
    let mut said = Map::new();
    let mut note = |name: &str, text: Option<String>| {
        if let Some(text) = text {
            said.insert(name.into(), json!(text));
        }
    };
    let word = |words| move |f: Field| fields::one_of(words)(f).map(str::to_string);
    match kind {
        "COMPUTE_HOST" => {
            note("event", Some(of.need("event", word(EVENTS))?));
            note("host_status", of.take("host_status", word(HOST_STATUSES))?);
            note("cluster_status", of.take("cluster_status", word(CLUSTER_STATUSES))?);
        }
        "PROCESS" => {
            note("event", Some(of.need("event", word(EVENTS))?));
            note("process_name", Some(of.need("process_name", fields::text(1, 4096))?));
        }
        _ => {
            note("instance_uuid", Some(of.need("instance_uuid", fields::uuid)?));
            note("vir_domain_event", Some(of.need("vir_domain_event", fields::text(1, 255))?));
            note("event", Some(of.need("event", fields::text(1, 255))?));
        }
    }
    of.finish()?;
    Ok(Value::Object(said))
}
