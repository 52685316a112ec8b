//! `POST /servers/{id}/action`: the body's one key says what is to be done.

use base::{Context, Error, Kind, Result};
use http_api::{Request, Response, Routes, Version, empty, json};
use rpc::message::{Request as Ask, Response as Told};
use serde_json::{Value, json};

use super::server_life as life;
use super::server_nics;
use crate::db::actions;
use crate::fields::{self, Field, Fields};
use crate::servers::{PowerAction, require_unlocked, wrong_state};
use crate::{Compute, VERSIONS};

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes.post("/servers/{id}/action", action)
}

const NEWEST: u16 = u16::MAX;

/// Every action with the first and the last microversion that has it.
const KNOWN: &[(&str, u16, u16)] = &[
    ("os-start", 1, NEWEST),
    ("os-stop", 1, NEWEST),
    ("reboot", 1, NEWEST),
    ("pause", 1, NEWEST),
    ("unpause", 1, NEWEST),
    ("suspend", 1, NEWEST),
    ("resume", 1, NEWEST),
    ("lock", 1, NEWEST),
    ("unlock", 1, NEWEST),
    ("rebuild", 1, NEWEST),
    ("resize", 1, NEWEST),
    ("confirmResize", 1, NEWEST),
    ("revertResize", 1, NEWEST),
    ("rescue", 1, NEWEST),
    ("unrescue", 1, NEWEST),
    ("createImage", 1, NEWEST),
    ("createBackup", 1, NEWEST),
    ("changePassword", 1, NEWEST),
    ("migrate", 1, NEWEST),
    ("os-migrateLive", 1, NEWEST),
    ("evacuate", 1, NEWEST),
    ("shelve", 1, NEWEST),
    ("shelveOffload", 1, NEWEST),
    ("unshelve", 1, NEWEST),
    ("addFixedIp", 1, 43),
    ("removeFixedIp", 1, 43),
    ("addFloatingIp", 1, 43),
    ("removeFloatingIp", 1, 43),
    ("trigger_crash_dump", 17, NEWEST),
    ("resetNetwork", 1, NEWEST),
    ("injectNetworkInfo", 1, NEWEST),
    ("os-getConsoleOutput", 1, NEWEST),
    ("os-resetState", 1, NEWEST),
    ("addSecurityGroup", 1, NEWEST),
    ("removeSecurityGroup", 1, NEWEST),
    ("forceDelete", 1, NEWEST),
    ("restore", 1, NEWEST),
    ("wrs-res:scale", 1, NEWEST),
];

const LOCKED_REASON: Version = Version::new(2, 73);

async fn action(compute: Compute, req: Request) -> Result<Response> {
    let body = req.object()?;
    if let Some(answer) = super::consoles::action(&compute, &req, &body).await {
        return answer;
    }
    let Some((name, first, last)) = KNOWN.iter().find(|(name, ..)| body.contains_key(*name)) else {
        let name = body.keys().next().map(String::as_str).unwrap_or_default();
        return Err(Error::invalid(format!("There is no such action: {name}")));
    };
    if !(Version::new(2, *first)..=Version::new(2, *last)).contains(&req.version.max(VERSIONS.min)) {
        return Err(Error::new(Kind::NotFound, "The resource could not be found."));
    }
    let mut root = Fields::root(&body, req.version);
    let argument = root.need(name, fields::any)?;
    root.finish()?;
    let field = Field { at: name, value: &argument, relaxed: req.version == Version::LEGACY };
    let (ctx, id) = (&req.ctx, req.param("id"));
    match *name {
        "os-start" => compute.server_power(ctx, id, PowerAction::Start).await?,
        "os-stop" => compute.server_power(ctx, id, PowerAction::Stop).await?,
        "pause" => compute.server_power(ctx, id, PowerAction::Pause).await?,
        "unpause" => compute.server_power(ctx, id, PowerAction::Unpause).await?,
        "reboot" => compute.server_power(ctx, id, reboot_kind(field)?).await?,
        "lock" => {
            let reason = if req.version >= LOCKED_REASON { locked_reason(field)? } else { None };
            compute.server_lock(ctx, id, reason).await?;
        }
        "unlock" => compute.server_unlock(ctx, id).await?,
        "suspend" => compute.server_power(ctx, id, PowerAction::Suspend).await?,
        "resume" => compute.server_power(ctx, id, PowerAction::Resume).await?,
        "rebuild" => return life::rebuild(&compute, &req, field).await,
        "resize" => return life::resize(&compute, &req, field).await,
        "confirmResize" => {
            compute.server_resize_confirm(ctx, id).await?;
            return empty(204);
        }
        "revertResize" => compute.server_resize_revert(ctx, id).await?,
        "rescue" => return life::rescue(&compute, &req, field).await,
        "unrescue" => compute.server_unrescue(ctx, id).await?,
        "createImage" => return life::create_image(&compute, &req, field).await,
        "createBackup" => return life::create_backup(&compute, &req, field).await,
        "changePassword" => life::change_password(&compute, ctx, id, field).await?,
        "migrate" => life::migrate(&compute, &req, field).await?,
        "os-migrateLive" => life::migrate_live(&compute, &req, field).await?,
        "evacuate" => return life::evacuate(&compute, &req, field).await,
        "shelve" => compute.server_shelve(ctx, id).await?,
        "shelveOffload" => compute.server_shelve_offload(ctx, id).await?,
        "unshelve" => server_nics::unshelve(&compute, &req, field).await?,
        "addFixedIp" => server_nics::add_fixed_ip(&compute, &req, field).await?,
        "removeFixedIp" => server_nics::remove_fixed_ip(&compute, &req, field).await?,
        "addFloatingIp" => server_nics::add_floating_ip(&compute, &req, field).await?,
        "removeFloatingIp" => server_nics::remove_floating_ip(&compute, &req, field).await?,
        "trigger_crash_dump" => {
            life::null(field)?;
            life::crash_dump(&compute, ctx, id).await?;
        }
        "resetNetwork" => return Err(life::gone()),
        "injectNetworkInfo" => life::inject_network_info(&compute, ctx, id).await?,
        "os-resetState" => compute.server_reset_state(ctx, id, reset_to(field)? == "error").await?,
        "forceDelete" => compute.server_delete(ctx, id, "os_compute_api:os-deferred-delete:force", "delete").await?,
        "restore" => {
            // Servers are not kept after a delete, so there is never one to restore.
            let server = compute.server_for(ctx, id, "os_compute_api:os-deferred-delete:restore").await?;
            return Err(wrong_state("restore", &server, "vm_state"));
        }
        "wrs-res:scale" => compute.server_scale(ctx, id, scale_up(field)?).await?,
        "os-getConsoleOutput" => return console(&compute, ctx, id, field).await,
        "addSecurityGroup" => security_group(&compute, ctx, id, group_name(field)?, true).await?,
        _ => security_group(&compute, ctx, id, group_name(field)?, false).await?,
    }
    empty(202)
}

fn reboot_kind(field: Field) -> Result<PowerAction> {
    let mut f = Fields::of(field)?;
    let kind = f.need("type", fields::one_of(&["HARD", "Hard", "hard", "SOFT", "Soft", "soft"]))?;
    f.finish()?;
    Ok(if kind.eq_ignore_ascii_case("hard") { PowerAction::RebootHard } else { PowerAction::RebootSoft })
}

fn locked_reason(field: Field) -> Result<Option<String>> {
    if field.value.is_null() {
        return Ok(None);
    }
    let mut f = Fields::of(field)?;
    let reason = f.take("locked_reason", fields::text(1, 255))?;
    f.finish()?;
    Ok(reason)
}

/// Whether it is one vCPU more.
fn scale_up(field: Field) -> Result<bool> {
    let mut f = Fields::of(field)?;
    f.need("resource", fields::one_of(&["cpu"]))?;
    let direction = f.need("direction", fields::one_of(&["up", "down"]))?;
    f.finish()?;
    Ok(direction == "up")
}

fn reset_to(field: Field) -> Result<&'static str> {
    let mut f = Fields::of(field)?;
    let state = f.need("state", fields::one_of(&["active", "error"]))?;
    f.finish()?;
    Ok(state)
}

fn group_name(field: Field) -> Result<String> {
    let mut f = Fields::of(field)?;
    let name = f.need("name", fields::name)?;
    f.finish()?;
    Ok(name)
}

/// The end of a server's console, without what JSON's readers choke on.
async fn console(compute: &Compute, ctx: &Context, id: &str, field: Field<'_>) -> Result<Response> {
    let mut f = Fields::of(field)?;
    let length = f.take("length", fields::nullable(fields::integer(-1, i64::from(i32::MAX))))?.flatten();
    f.finish()?;
    let server = compute.server_for(ctx, id, "os_compute_api:os-console-output").await?;
    let host = compute.server_host(&server)?;
    let lines = length.and_then(|n| u32::try_from(n).ok());
    let told = compute.core.hosts.ask(&host, Ask::ConsoleLog { instance_id: server.id.clone(), lines }).await;
    let text = match told {
        Ok(Told::Text(text)) => text,
        Ok(_) => return Err(Error::internal("a host answered a console request with something else")),
        Err(error) if error.is(Kind::Unavailable) => return Err(Error::conflict(format!("Instance {id} is not ready"))),
        Err(error) => return Err(error),
    };
    let readable = |c: &char| matches!(c, '\t' | '\n' | '\r') || (*c >= ' ' && *c != '\u{7f}' && *c != '\u{FFFE}' && *c != '\u{FFFF}');
    json(200, &json!({"output": text.chars().filter(readable).collect::<String>()}))
}

async fn security_group(compute: &Compute, ctx: &Context, id: &str, group: String, adding: bool) -> Result<()> {
    let verb = if adding { "add" } else { "remove" };
    let rule = if adding { "os_compute_api:os-security-groups:add" } else { "os_compute_api:os-security-groups:remove" };
    compute.server_for(ctx, id, rule).await?;
    compute
        .server_change(ctx, id, move |this, tx, ctx, server| {
            require_unlocked(server, ctx)?;
            if server.task_state.is_some() && server.vm_state == crate::states::vm::BUILDING {
                return Err(wrong_state(&format!("{verb} security group"), server, "vm_state"));
            }
            if !adding {
                let nics = this.network.nics_in(tx, &server.id)?;
                let has = nics.iter().flat_map(|n| &n.security_groups).any(|(id, name)| *id == group || *name == group);
                if !has {
                    return Err(Error::new(
                        Kind::NotFound,
                        format!("Security group {group} is not associated with the instance {}", server.id),
                    ));
                }
            }
            this.network.security_group_change_in(tx, ctx, &server.id, &server.project_id, &group, adding)?;
            // The EC2 tree of the guest's metadata names the groups.
            this.server_changed_in(tx, server, true)?;
            actions::action_start_in(tx, &server.id, if adding { "addSecurityGroup" } else { "removeSecurityGroup" }, ctx)
        })
        .await
}

/// What a diagnostics request shows, for the API file beside this one.
pub fn diagnostics_view(raw: &Value, server: &crate::db::servers::Server, version: Version) -> Value {
    if version < Version::new(2, 48) {
        // Before 2.48 each hypervisor showed what it had.
        return json!({"memory": server.memory_mb * 1024, "memory-actual": server.memory_mb * 1024, "vcpus": server.vcpus});
    }
    let ticks = raw["process"]["user_ticks"].as_u64().unwrap_or(0) + raw["process"]["system_ticks"].as_u64().unwrap_or(0);
    // Kernel ticks are hundredths of a second; the reference counts nanoseconds.
    let time = ticks * 10_000_000;
    let cpus: Vec<Value> =
        (0..server.vcpus).map(|i| json!({"id": i, "time": time / u64::from(server.vcpus.max(1)), "utilisation": Value::Null})).collect();
    let disks: Vec<Value> = raw["blockstats"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|d| {
            let stat = |name: &str| d["stats"][name].as_u64().unwrap_or(0);
            json!({
                "read_bytes": stat("rd_bytes"),
                "read_requests": stat("rd_operations"),
                "write_bytes": stat("wr_bytes"),
                "write_requests": stat("wr_operations"),
                "errors_count": stat("failed_rd_operations") + stat("failed_wr_operations"),
            })
        })
        .collect();
    let state = match server.power_state {
        1 => "running",
        3 => "paused",
        4 => "shutdown",
        6 => "crashed",
        _ => "pending",
    };
    let uptime = server.launched_at.map(|at| base::Timestamp::now().since(at).as_secs());
    json!({
        "state": state,
        "driver": "libvirt",
        "hypervisor": "qemu",
        "hypervisor_os": "linux",
        "uptime": uptime,
        "config_drive": !server.config_drive.is_empty(),
        "num_cpus": server.vcpus,
        "num_disks": disks.len(),
        "num_nics": 0,
        "cpu_details": cpus,
        "disk_details": disks,
        "nic_details": [],
        "memory_details": {"maximum": server.memory_mb, "used": raw["process"]["resident_pages"].as_u64().unwrap_or(0) / 256},
    })
}
