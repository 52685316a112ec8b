//! `/v1/ihosts`.

use base::{Error, Result};
use http_api::{Page, Request, Response, SortDir, empty, json};
use serde::Deserialize;
use serde_json::{Value, json};
use store::Tx;

use super::Change;
use crate::Inventory;
use crate::act::Act;
use crate::bmc::BmcChange;
use crate::cycle::TASK as CYCLE;
use crate::db::{self, Host};
use crate::enable::Enabling;
use crate::join::hostname_check;
use crate::lock::FORCE;

/// Pages are never longer than this.
const PAGE: u64 = 1000;
const SORT: &[&str] = &["id", "uuid", "hostname", "personality", "administrative", "operational", "availability", "created_at"];
/// All there are.
const ACTIONS: &str = "lock, force-lock, unlock, force-unlock, reboot, reset, power-on, power-off";

/// Of StarlingX's attributes those that this cloud knows nothing of: it neither installs machines nor configures them, so nothing of
/// that is ever out of date.
const UNKNOWN: [&str; 17] = [
    "action_state",
    "bm_mac",
    "boot_device",
    "config_applied",
    "config_status",
    "config_target",
    "console",
    "ihost_action",
    "install_output",
    "install_state",
    "install_state_info",
    "isystem_uuid",
    "mgmt_mac",
    "peers",
    "reserved",
    "rootfs_device",
    "serialid",
];

fn view(inventory: &Inventory, host: &Host, base_url: &str) -> Value {
    let mut view = known(inventory, host, base_url);
    for name in UNKNOWN {
        view[name] = Value::Null;
    }
    view
}

fn known(inventory: &Inventory, host: &Host, base_url: &str) -> Value {
    let uuid = &host.uuid;
    json!({
        "id": host.number,
        "uuid": uuid,
        "hostname": host.hostname,
        "personality": host.personality,
        "subfunctions": host.subfunctions,
        "subfunction_oper": host.subfunction_operational(),
        "subfunction_avail": host.subfunction_availability(),
        "mgmt_ip": host.mgmt_ip,
        "cluster_host_ip": host.upkeep.cluster_ip,
        "administrative": host.administrative(),
        "operational": host.operational(),
        "availability": host.availability(),
        "invprovision": if host.provisioned { "provisioned" } else { "unprovisioned" },
        "inv_state": host.provisioned.then_some("inventoried"),
        "location": {},
        "clock_synchronization": "ntp",
        "reboot_needed": false,
        "action": match host.task.as_str() {
            "" => "none",
            FORCE => "force-lock",
            _ if host.upkeep.enabling == Enabling::Running => "unlock",
            // A sensor's doing.
            CYCLE => "none",
            _ => host.upkeep.act.map_or("lock", Act::word),
        },
        "task": host.task_shown(),
        "vim_progress_status": host.progress_shown(),
        "mtce_info": host.upkeep.info(),
        "uptime": inventory.session_of(uuid).map_or(0, |info| info.uptime_seconds),
        "bm_type": host.bm_type,
        "bm_ip": host.bm_ip,
        "bm_username": host.bm_username,
        "capabilities": if host.personality == "controller" { json!({"Personality": "Controller-Active"}) } else { json!({}) },
        "created_at": host.created_at.iso_micros_z(),
        "updated_at": host.updated_at.iso_micros_z(),
        "links": [{"href": format!("{base_url}/v1/ihosts/{uuid}"), "rel": "self"}, {"href": format!("{base_url}/ihosts/{uuid}"), "rel": "bookmark"}],
    })
}

fn key(view: &Value, name: &str) -> (i64, String) {
    let value = &view[name];
    (value.as_i64().unwrap_or_default(), value.as_str().unwrap_or_default().to_string())
}

pub async fn index(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:ihosts:get", &req.ctx)?;
    let page = Page::from_query(&req.query, PAGE, &[])?;
    if let Some((name, _)) = page.sort.iter().find(|(name, _)| !SORT.contains(&name.as_str())) {
        return Err(Error::invalid(format!("sort_key: hosts cannot be sorted by '{name}'; known are {}.", SORT.join(", "))));
    }
    let hosts = inventory.core.store.read(db::host_list_in).await?;
    let wanted = |host: &&Host| {
        let is = |name: &str, value: &str| req.query.get(name).is_none_or(|wanted| wanted == value);
        is("hostname", &host.hostname) && is("personality", &host.personality) && is("uuid", &host.uuid)
    };
    let mut views: Vec<Value> = hosts.iter().filter(wanted).map(|host| view(&inventory, host, &req.base_url)).collect();
    for (name, direction) in page.sort.iter().rev() {
        views.sort_by_key(|view| key(view, name));
        if *direction == SortDir::Desc {
            views.reverse();
        }
    }
    if let Some(marker) = &page.marker {
        let at = views.iter().position(|view| view["uuid"] == **marker);
        let at = at.ok_or_else(|| Error::invalid(format!("marker: there is no host {marker}.")))?;
        views.drain(..=at);
    }
    let limit = usize::try_from(page.fetch_limit(PAGE)).unwrap_or(usize::MAX);
    let more = views.len() > limit;
    views.truncate(limit);
    let mut body = json!({"ihosts": views});
    if let (true, Some(last)) = (more, views.last().and_then(|view| view["uuid"].as_str())) {
        body["next"] = json!(http_api::page::link_with_marker(&req, last, None));
    }
    json(200, &body)
}

pub(super) fn host_in(tx: &Tx, id: &str) -> Result<Host> {
    let found = db::host_list_in(tx)?.into_iter().find(|host| host.uuid == id || host.number.to_string() == id);
    found.ok_or_else(|| Error::new(base::Kind::NotFound, format!("Server {id} not found.")))
}

pub async fn show(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:ihosts:get", &req.ctx)?;
    let host = inventory.core.store.read(|tx| host_in(tx, req.param("id"))).await?;
    json(200, &view(&inventory, &host, &req.base_url))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    hostname: String,
    personality: String,
    bm_type: Option<String>,
    bm_ip: Option<String>,
    bm_username: Option<String>,
    bm_password: Option<String>,
}

pub async fn create(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:ihosts:add", &req.ctx)?;
    let new: New = req.json()?;
    hostname_check(&new.hostname)?;
    if new.personality != "worker" {
        return Err(Error::invalid(format!("personality: '{}' cannot be added; only worker can.", new.personality)));
    }
    let this = inventory.clone();
    let host = inventory
        .core
        .store
        .write(move |tx| {
            if db::host_by_name_in(tx, &new.hostname)?.is_some() {
                return Err(Error::exists(format!("Host with hostname {} already exists.", new.hostname)));
            }
            let mut host = Host { locked: true, ..Host::new(&new.hostname, &new.personality) };
            db::host_put_in(tx, &mut host)?;
            let change = BmcChange { kind: new.bm_type, ip: new.bm_ip, username: new.bm_username, password: new.bm_password };
            this.host_bmc_change_in(tx, host, change)
        })
        .await?;
    json(200, &view(&inventory, &host, &req.base_url))
}

pub async fn update(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:ihosts:modify", &req.ctx)?;
    let changes: Vec<Change> = req.json()?;
    let mut wanted = Wanted::default();
    for change in changes {
        wanted.take(change)?;
    }
    let (this, id, ctx) = (inventory.clone(), req.param("id").to_string(), req.ctx.clone());
    let host = inventory
        .core
        .store
        .write(move |tx| {
            let host = host_in(tx, &id)?;
            match wanted {
                Wanted { action: None, bmc: Some(change) } => this.host_bmc_change_in(tx, host, change),
                Wanted { action: Some(action), bmc: None } => act_in(&this, tx, &ctx, host, &action),
                _ => Err(Error::invalid(
                    "A host is changed by one action at a time: [{\"op\": \"replace\", \"path\": \"/action\", \"value\": \"lock\"}], or in \
                     what is known of its BMC.",
                )),
            }
        })
        .await?;
    json(200, &view(&inventory, &host, &req.base_url))
}

/// What a patch asks for.
#[derive(Default)]
struct Wanted {
    action: Option<String>,
    bmc: Option<BmcChange>,
}

impl Wanted {
    fn take(&mut self, change: Change) -> Result<()> {
        let name = change.path.trim_start_matches('/');
        let value = change.value.as_str().map(str::to_string);
        let value = value.ok_or_else(|| Error::invalid(format!("value: that of {name} is a text.")))?;
        let place = match name {
            _ if change.op != "replace" => None,
            "action" => Some(&mut self.action),
            "bm_type" => Some(&mut self.bmc.get_or_insert_default().kind),
            "bm_ip" => Some(&mut self.bmc.get_or_insert_default().ip),
            "bm_username" => Some(&mut self.bmc.get_or_insert_default().username),
            "bm_password" => Some(&mut self.bmc.get_or_insert_default().password),
            _ => None,
        };
        let unknown = || {
            Error::invalid(format!(
                "Only /action, /bm_type, /bm_ip, /bm_username and /bm_password of a host can be replaced, not {} {}.",
                change.op, change.path
            ))
        };
        *place.ok_or_else(unknown)? = Some(value);
        Ok(())
    }
}

fn act_in(inventory: &Inventory, tx: &Tx, ctx: &base::Context, host: Host, action: &str) -> Result<Host> {
    let name = host.hostname.clone();
    let refused = |why: &str| Err(Error::invalid(format!("Host {name}: {action} rejected because {why}.")));
    match action {
        "lock" => inventory.host_lock_begin_in(tx, ctx, host),
        "force-lock" => inventory.host_force_in(tx, host),
        "unlock" => inventory.host_unlock_in(tx, ctx, host, false),
        "force-unlock" => inventory.host_unlock_in(tx, ctx, host, true),
        "swact" | "force-swact" if host.personality != "controller" => refused("it is no controller"),
        // There is one only.
        "swact" | "force-swact" => refused("there is no enabled mate: it is the only controller"),
        "reinstall" => refused("this cloud does not install machines; install it, and let it join with a new token"),
        word => match Act::parse(word) {
            Some(act) => inventory.host_act_begin_in(tx, ctx, host, act),
            None => Err(Error::invalid(format!("value: there is no action '{word}'; known are {ACTIONS}."))),
        },
    }
}

pub async fn delete(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:ihosts:delete", &req.ctx)?;
    let host = inventory.core.store.read(|tx| host_in(tx, req.param("id"))).await?;
    inventory.host_delete(&host).await?;
    empty(204)
}
