//! `/v1/isensors` and `/v1/isensorgroups`, of all hosts and of one.

use base::{Error, Kind, Result};
use http_api::{Page, Request, Response, json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Change;
use super::hosts::host_in;
use crate::Inventory;
use crate::sensors::db::{self, Group, Sensor};
use crate::sensors::{Action, GroupChange, SHORTEST};

/// Pages are never longer than this.
const PAGE: u64 = 1000;
/// What may be asked for at each severity.
const CHOICES: (&str, &str) = ("ignore,log,alarm", "ignore,log,alarm,reset,power-cycle");

fn state(disabled: bool) -> &'static str {
    if disabled { "disabled" } else { "enabled" }
}

pub(super) fn links(base_url: &str, kind: &str, uuid: &str) -> Value {
    json!([{"href": format!("{base_url}/v1/{kind}/{uuid}"), "rel": "self"}, {"href": format!("{base_url}/{kind}/{uuid}"), "rel": "bookmark"}])
}

fn group_view(group: &Group, base_url: &str) -> Value {
    let doc = &group.doc;
    json!({
        "uuid": group.uuid,
        "host_uuid": group.host_id,
        "sensorgroupname": group.name,
        "sensortype": doc.kind,
        "datatype": "analog",
        "algorithm": "debounce-1.0.0",
        "state": state(doc.disabled),
        "suppress": if doc.suppress { "True" } else { "False" },
        "audit_interval_group": doc.interval,
        "actions_minor_choices": CHOICES.0,
        "actions_major_choices": CHOICES.0,
        "actions_critical_choices": CHOICES.1,
        "actions_minor_group": doc.actions.minor.word(),
        "actions_major_group": doc.actions.major.word(),
        "actions_critical_group": doc.actions.critical.word(),
        "created_at": group.created_at.iso_micros_z(),
        "updated_at": group.updated_at.iso_micros_z(),
        "links": links(base_url, "isensorgroups", &group.uuid),
    })
}

fn sensor_view(sensor: &Sensor, groups: &[Group], base_url: &str) -> Value {
    let doc = &sensor.doc;
    let group = groups.iter().find(|group| group.uuid == sensor.group_id);
    let actions = group.map(|group| group.doc.actions).unwrap_or_default();
    let disabled = doc.disabled || group.is_some_and(|group| group.doc.disabled);
    let [lower_critical, lower_major, lower_minor, upper_minor, upper_major, upper_critical] = doc.thresholds;
    json!({
        "uuid": sensor.uuid,
        "host_uuid": sensor.host_id,
        "sensorgroup_uuid": sensor.group_id,
        "sensorname": sensor.name,
        "path": "",
        "sensortype": doc.kind,
        "datatype": "analog",
        "status": if disabled { "disabled" } else { &doc.status },
        "state": state(disabled),
        "state_requested": null,
        "sensor_action_requested": doc.acted.map(Action::word),
        "suppress": if doc.suppress { "True" } else { "False" },
        "algorithm": "debounce-1.0.0",
        "audit_interval": group.map(|group| group.doc.interval),
        "actions_minor": actions.minor.word(),
        "actions_major": actions.major.word(),
        "actions_critical": actions.critical.word(),
        "value": doc.reading,
        "unit_base": doc.unit,
        "unit_rate": "",
        "unit_modifier": "",
        "t_critical_lower": lower_critical,
        "t_major_lower": lower_major,
        "t_minor_lower": lower_minor,
        "t_minor_upper": upper_minor,
        "t_major_upper": upper_major,
        "t_critical_upper": upper_critical,
        "created_at": sensor.created_at.iso_micros_z(),
        "updated_at": sensor.updated_at.iso_micros_z(),
        "links": links(base_url, "isensors", &sensor.uuid),
    })
}

/// One page of views, under their name.
pub(super) fn page(req: &Request, name: &str, mut views: Vec<Value>) -> Result<Response> {
    let page = Page::from_query(&req.query, PAGE, &[])?;
    if let Some((key, _)) = page.sort.first() {
        return Err(Error::invalid(format!("sort_key: these cannot be sorted by '{key}'.")));
    }
    if let Some(marker) = &page.marker {
        let at = views.iter().position(|view| view["uuid"] == **marker);
        let at = at.ok_or_else(|| Error::invalid(format!("marker: there is no {marker}.")))?;
        views.drain(..=at);
    }
    let limit = usize::try_from(page.fetch_limit(PAGE)).unwrap_or(usize::MAX);
    let more = views.len() > limit;
    views.truncate(limit);
    let last = views.last().and_then(|view| view["uuid"].as_str()).map(str::to_string);
    let mut body = json!({name: views});
    if let (true, Some(last)) = (more, last) {
        body["next"] = json!(http_api::page::link_with_marker(req, &last, None));
    }
    json(200, &body)
}

fn not_found(what: &str, id: &str) -> Error {
    Error::new(Kind::NotFound, format!("{what} {id} not found."))
}

/// The host whose are wanted; none: of all.
async fn of_host(inventory: &Inventory, req: &Request, nested: bool) -> Result<Option<String>> {
    match nested {
        true => inventory.core.store.read(|tx| host_in(tx, req.param("id"))).await.map(|host| Some(host.uuid)),
        false => Ok(None),
    }
}

async fn sensors(inventory: Inventory, req: Request, nested: bool) -> Result<Response> {
    inventory.authorize("config_api:isensors:get", &req.ctx)?;
    let host = of_host(&inventory, &req, nested).await?;
    let read = |tx: &store::Tx| Ok((db::sensors_in(tx, host.as_deref())?, db::groups_in(tx, host.as_deref())?));
    let (sensors, groups) = inventory.core.store.read(read).await?;
    page(&req, "isensors", sensors.iter().map(|sensor| sensor_view(sensor, &groups, &req.base_url)).collect())
}

pub async fn sensors_index(inventory: Inventory, req: Request) -> Result<Response> {
    sensors(inventory, req, false).await
}

pub async fn host_sensors(inventory: Inventory, req: Request) -> Result<Response> {
    sensors(inventory, req, true).await
}

async fn sensor_answer(inventory: &Inventory, req: &Request, sensor: &Sensor) -> Result<Response> {
    let groups = inventory.core.store.read(|tx| db::groups_in(tx, Some(&sensor.host_id))).await?;
    json(200, &sensor_view(sensor, &groups, &req.base_url))
}

pub async fn sensor_show(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:isensors:get", &req.ctx)?;
    let id = req.param("id");
    let sensor = inventory.core.store.read(|tx| db::sensor_in(tx, id)).await?.ok_or_else(|| not_found("Sensor", id))?;
    sensor_answer(&inventory, &req, &sensor).await
}

async fn groups(inventory: Inventory, req: Request, nested: bool) -> Result<Response> {
    inventory.authorize("config_api:isensorgroups:get", &req.ctx)?;
    let host = of_host(&inventory, &req, nested).await?;
    let groups = inventory.core.store.read(|tx| db::groups_in(tx, host.as_deref())).await?;
    page(&req, "isensorgroups", groups.iter().map(|group| group_view(group, &req.base_url)).collect())
}

pub async fn groups_index(inventory: Inventory, req: Request) -> Result<Response> {
    groups(inventory, req, false).await
}

pub async fn host_groups(inventory: Inventory, req: Request) -> Result<Response> {
    groups(inventory, req, true).await
}

pub async fn group_show(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:isensorgroups:get", &req.ctx)?;
    let id = req.param("id");
    let group = inventory.core.store.read(|tx| db::group_in(tx, id)).await?.ok_or_else(|| not_found("Sensor group", id))?;
    json(200, &group_view(&group, &req.base_url))
}

impl Change {
    fn name(&self) -> Result<&str> {
        match self.op.as_str() {
            "replace" => Ok(self.path.trim_start_matches('/')),
            op => Err(Error::invalid(format!("op: '{op}' is not known here; replace is."))),
        }
    }

    fn flag(&self) -> Result<bool> {
        match (&self.value, self.value.as_str().map(str::to_ascii_lowercase).as_deref()) {
            (Value::Bool(flag), _) => Ok(*flag),
            (_, Some("true")) => Ok(true),
            (_, Some("false")) => Ok(false),
            _ => Err(Error::invalid(format!("{}: True or False.", self.path))),
        }
    }

    /// Whether it is to be disabled.
    fn state(&self) -> Result<bool> {
        match self.value.as_str() {
            Some("enabled") => Ok(false),
            Some("disabled") => Ok(true),
            _ => Err(Error::invalid(format!("{}: enabled or disabled.", self.path))),
        }
    }

    fn action(&self) -> Result<Action> {
        let action = self.value.as_str().and_then(Action::parse);
        action.ok_or_else(|| Error::invalid(format!("{}: one of {}.", self.path, CHOICES.1)))
    }

    fn interval(&self) -> Result<u32> {
        let number = self.value.as_u64().or_else(|| self.value.as_str()?.parse().ok()).and_then(|n| u32::try_from(n).ok());
        let number = number.filter(|n| (SHORTEST..=86400).contains(n));
        number.ok_or_else(|| Error::invalid(format!("{}: from {SHORTEST} to 86400 seconds.", self.path)))
    }
}

pub async fn sensor_update(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:isensors:modify", &req.ctx)?;
    let changes: Vec<Change> = req.json()?;
    let (mut suppress, mut disabled) = (None, None);
    for change in &changes {
        match change.name()? {
            "suppress" => suppress = Some(change.flag()?),
            "state" => disabled = Some(change.state()?),
            other => return Err(Error::invalid(format!("Of a sensor only state and suppress can be replaced, not {other}."))),
        }
    }
    let (this, id) = (inventory.clone(), req.param("id").to_string());
    let sensor = inventory.core.store.write(move |tx| this.sensor_change_in(tx, &id, suppress, disabled)).await?;
    sensor_answer(&inventory, &req, &sensor).await
}

pub async fn group_update(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:isensorgroups:modify", &req.ctx)?;
    let changes: Vec<Change> = req.json()?;
    let mut wanted = GroupChange::default();
    for change in &changes {
        match change.name()? {
            "state" => wanted.disabled = Some(change.state()?),
            "suppress" => wanted.suppress = Some(change.flag()?),
            "audit_interval_group" => wanted.interval = Some(change.interval()?),
            "actions_minor_group" => wanted.minor = Some(change.action()?),
            "actions_major_group" => wanted.major = Some(change.action()?),
            "actions_critical_group" => wanted.critical = Some(change.action()?),
            other => {
                return Err(Error::invalid(format!(
                    "Of a sensor group only state, suppress, audit_interval_group and actions_minor_group, _major_ and _critical_ can be replaced, not {other}."
                )));
            }
        }
    }
    let (this, id) = (inventory.clone(), req.param("id").to_string());
    let group = inventory.core.store.write(move |tx| this.sensor_group_change_in(tx, &id, &wanted)).await?;
    json(200, &group_view(&group, &req.base_url))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Relearn {
    host_uuid: String,
}

pub async fn relearn(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:isensorgroups:relearn", &req.ctx)?;
    let Relearn { host_uuid } = req.json()?;
    let this = inventory.clone();
    inventory
        .core
        .store
        .write(move |tx| {
            let host = host_in(tx, &host_uuid)?;
            this.sensors_relearn_in(tx, host)
        })
        .await?;
    http_api::empty(204)
}
