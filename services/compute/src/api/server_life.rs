//! Actions that give a server another disk, size or image: bodies, versions, answers.

use base::{Context, Error, Kind, Result};
use http_api::{Request, Response, Version, empty, json, response};
use rpc::message::{Request as Ask, Response as Told, Secret};
use serde_json::{Value, json};

use super::server_body::{flavor_ref, personality, trusted_certs};
use super::server_view::{Links, Shown};
use crate::Compute;
use crate::db::actions;
use crate::db::servers as db;
use crate::fields::{self, Field, Fields};
use crate::servers::{Backup, Evacuate, LiveWish, Rebuild, password, require_state, require_unlocked};
use crate::states::{task, vm};

fn v(minor: u16) -> Version {
    Version::new(2, minor)
}

pub async fn create_image(compute: &Compute, req: &Request, field: Field<'_>) -> Result<Response> {
    let mut f = Fields::of(field)?;
    let name = f.need("name", fields::name)?;
    let metadata = f.take("metadata", fields::metadata)?.unwrap_or_default();
    f.finish()?;
    let limited = req.version < v(39);
    let image = compute.server_image(&req.ctx, req.param("id"), name.trim(), metadata, None, limited).await?;
    image_answer(req, &image, true)
}

pub async fn create_backup(compute: &Compute, req: &Request, field: Field<'_>) -> Result<Response> {
    let mut f = Fields::of(field)?;
    let name = f.need("name", fields::name)?;
    let kind = f.need("backup_type", fields::text(0, 255))?;
    let rotation = f.need("rotation", fields::integer(0, i64::from(i32::MAX)))?;
    let metadata = f.take("metadata", fields::metadata)?.unwrap_or_default();
    f.finish()?;
    let rotation = u32::try_from(rotation).unwrap_or(u32::MAX);
    let limited = req.version < v(39);
    let backup = Some(Backup { kind, rotation });
    let image = compute.server_image(&req.ctx, req.param("id"), name.trim(), metadata, backup, limited).await?;
    image_answer(req, &image, rotation > 0)
}

fn image_answer(req: &Request, image: &str, located: bool) -> Result<Response> {
    if req.version >= v(45) {
        return json(202, &json!({"image_id": image}));
    }
    let mut answer = empty(202)?;
    if located {
        let own = Links::new(req).own("");
        let root = own.split("/compute").next().unwrap_or_default();
        response::set_header(&mut answer, "location", &format!("{root}/image/v2/images/{image}"));
    }
    Ok(answer)
}

pub async fn rebuild(compute: &Compute, req: &Request, field: Field<'_>) -> Result<Response> {
    let version = req.version;
    let mut f = Fields::of(field)?;
    let wish = Rebuild {
        image_ref: f.need("imageRef", fields::uuid)?,
        admin_pass: f.take("adminPass", fields::text(0, 65535))?,
        name: f.take("name", fields::name)?.map(|name| name.trim().to_string()),
        description: f.take_if(version >= v(19), "description", fields::description)?,
        metadata: f.take("metadata", fields::metadata)?,
        preserve_ephemeral: f.take("preserve_ephemeral", fields::boolean)?.unwrap_or(false),
        auto_disk_config: f.take("OS-DCF:diskConfig", fields::one_of(&["AUTO", "MANUAL"]))?.map(|c| c == "AUTO"),
        access_ip_v4: f.take("accessIPv4", fields::ipv4)?,
        access_ip_v6: f.take("accessIPv6", fields::ipv6)?,
        files: f.take_if(version < v(57), "personality", fields::list(1000, personality))?.unwrap_or_default(),
        key_name: f.take_if(version >= v(54), "key_name", fields::nullable(fields::name))?,
        user_data: f.take_if(version >= v(57), "user_data", fields::nullable(fields::base64(65535)))?,
        trusted_certs: f.take_if(version >= v(63), "trusted_image_certificates", fields::nullable(trusted_certs))?,
        hostname: if version >= v(94) {
            f.take("hostname", fields::fqdn)?
        } else {
            f.take_if(version >= v(90), "hostname", fields::hostname)?
        },
        reimage: version >= v(93),
        mend: None,
    };
    f.finish()?;
    let (server, password) = compute.server_rebuild(&req.ctx, req.param("id"), wish, req.token.as_deref()).await?;
    let links = Links::new(req);
    let (id, key, user_data) = (server.id.clone(), server.key_name.clone(), server.doc.user_data.clone());
    let view = compute.server_view(&req.ctx, server).await?;
    let mut shown = json!(view.render(version, Shown::Update, &links));
    shown["adminPass"] = json!(password);
    if version >= v(54) {
        shown["key_name"] = json!(key);
    }
    if version >= v(57) {
        // Here, and not among the attributes that administrators see.
        if let Some(shown) = shown.as_object_mut() {
            shown.remove("OS-EXT-SRV-ATTR:user_data");
        }
        shown["user_data"] = json!(user_data);
    }
    let mut answer = json(202, &json!({ "server": shown }))?;
    response::set_header(&mut answer, "location", &links.own(&format!("servers/{id}")));
    Ok(answer)
}

pub async fn resize(compute: &Compute, req: &Request, field: Field<'_>) -> Result<Response> {
    let mut f = Fields::of(field)?;
    let flavor = f.need("flavorRef", flavor_ref)?;
    let auto = f.take("OS-DCF:diskConfig", fields::one_of(&["AUTO", "MANUAL"]))?.map(|c| c == "AUTO");
    f.finish()?;
    compute.server_resize(&req.ctx, req.param("id"), &flavor, auto).await?;
    empty(202)
}

pub async fn rescue(compute: &Compute, req: &Request, field: Field<'_>) -> Result<Response> {
    let (mut password, mut image) = (None, None);
    if !field.value.is_null() {
        let mut f = Fields::of(field)?;
        password = f.take("adminPass", fields::text(0, 65535))?;
        image = f.take("rescue_image_ref", fields::uuid)?;
        f.finish()?;
    }
    let token = req.token.as_deref();
    let password = compute.server_rescue(&req.ctx, req.param("id"), image, password, req.version >= v(87), token).await?;
    json(200, &json!({"adminPass": password}))
}

/// Has the guest's agent set the administrator's password: at once, because nobody keeps it.
pub async fn change_password(compute: &Compute, ctx: &Context, id: &str, field: Field<'_>) -> Result<()> {
    let mut f = Fields::of(field)?;
    let password = f.need("adminPass", fields::text(0, 65535))?;
    f.finish()?;
    compute.server_for(ctx, id, "os_compute_api:os-admin-password").await?;
    let server = compute
        .server_change(ctx, id, move |this, tx, ctx, server| {
            require_unlocked(server, ctx)?;
            require_state("changePassword", server, &[vm::ACTIVE])?;
            this.server_host(server)?;
            server.task_state = Some(task::UPDATING_PASSWORD.into());
            db::server_update_in(tx, server)?;
            actions::action_start_in(tx, &server.id, "changePassword", ctx)?;
            Ok(server.clone())
        })
        .await?;
    let (compute, ctx) = (compute.clone(), ctx.clone());
    // A task of its own: should the client go away, the server must still get out of its task.
    let asked = tokio::spawn(async move {
        let image = |key: &str| server.doc.image.as_ref().and_then(|i| i.properties.get(key)).map(String::as_str);
        let windows = image("os_type").is_some_and(|os| os.eq_ignore_ascii_case("windows"));
        let user = image("os_admin_user").unwrap_or(if windows { "Administrator" } else { "root" }).to_string();
        let host = compute.server_host(&server)?;
        let request = Ask::SetPassword { instance_id: server.id.clone(), user, password: Secret(password) };
        let told = compute.core.hosts.ask(&host, request).await;
        let problem = match told {
            Ok(Told::Done) => None,
            Ok(Told::Refused(why)) => Some(why),
            Ok(_) => Some("the host answered with something else".into()),
            Err(error) => Some(error.message().to_string()),
        };
        let (why, id) = (problem.clone(), server.id.clone());
        compute
            .server_change(&ctx, &id, move |_, tx, ctx, server| {
                if server.task_state.as_deref() == Some(task::UPDATING_PASSWORD) {
                    server.task_state = None;
                    db::server_update_in(tx, server)?;
                }
                let (host, now) = (server.host.as_deref(), base::Timestamp::now());
                actions::action_event_in(tx, &server.id, &ctx.request_id, "compute_set_admin_password", host, now, why.as_deref())
            })
            .await?;
        match problem {
            None => Ok(()),
            Some(why) => Err(Error::conflict(format!("Failed to set admin password on {id} because {why}"))),
        }
    });
    asked.await.map_err(|e| Error::internal("setting a password broke off").caused_by(e))?
}

pub async fn crash_dump(compute: &Compute, ctx: &Context, id: &str) -> Result<()> {
    compute.server_for(ctx, id, "os_compute_api:servers:trigger_crash_dump").await?;
    let server = compute
        .server_change(ctx, id, |this, tx, ctx, server| {
            require_unlocked(server, ctx)?;
            let states = [vm::ACTIVE, vm::PAUSED, vm::RESCUED, vm::RESIZED, vm::ERROR];
            require_state("trigger_crash_dump", server, &states)?;
            this.server_host(server)?;
            actions::action_start_in(tx, &server.id, "trigger_crash_dump", ctx)?;
            Ok(server.clone())
        })
        .await?;
    let host = compute.server_host(&server)?;
    let told = compute.core.hosts.ask(&host, Ask::Interrupt { instance_id: server.id.clone() }).await;
    let why = told.err().map(|error| error.message().to_string());
    let problem = why.clone();
    compute
        .server_change(ctx, id, move |_, tx, ctx, server| {
            let (host, now) = (server.host.as_deref(), base::Timestamp::now());
            actions::action_event_in(tx, &server.id, &ctx.request_id, "compute_trigger_crash_dump", host, now, problem.as_deref())
        })
        .await?;
    why.map_or(Ok(()), |why| Err(Error::conflict(format!("The guest could not be interrupted: {why}"))))
}

/// Tells the guest's metadata again what is known of its network.
pub async fn inject_network_info(compute: &Compute, ctx: &Context, id: &str) -> Result<()> {
    compute.server_for(ctx, id, "os_compute_api:os-admin-actions:inject_network_info").await?;
    compute
        .server_change(ctx, id, |this, tx, ctx, server| {
            require_unlocked(server, ctx)?;
            this.server_changed_in(tx, server, true)
        })
        .await
}

pub async fn migrate(compute: &Compute, req: &Request, field: Field<'_>) -> Result<()> {
    let mut host = None;
    if req.version >= v(56) {
        if !field.value.is_null() {
            let mut f = Fields::of(field)?;
            host = f.take("host", fields::nullable(fields::fqdn))?.flatten();
            f.finish()?;
        }
    } else {
        // Of old, anything.
        fields::any(field)?;
    }
    compute.server_migrate(&req.ctx, req.param("id"), host).await
}

pub async fn migrate_live(compute: &Compute, req: &Request, field: Field<'_>) -> Result<()> {
    let version = req.version;
    let mut f = Fields::of(field)?;
    let host = f.need("host", fields::nullable(fields::fqdn))?;
    let block = |field: Field| if version >= v(25) && field.value == "auto" { Ok(None) } else { fields::boolean(field).map(Some) };
    let block = f.need("block_migration", block)?;
    if version < v(25) {
        f.need("disk_over_commit", fields::boolean)?;
    }
    let force = f.take_if((v(30)..v(68)).contains(&version), "force", fields::boolean)?.unwrap_or(false);
    f.finish()?;
    if force && host.is_none() {
        return Err(Error::invalid("Can't force to a non-provided destination"));
    }
    // A named host was taken as it was before there was a word for that.
    let forced = host.is_some() && (force || version < v(30));
    let wish = LiveWish { target: host, forced, block, waits: version < v(34) };
    compute.server_migrate_live(&req.ctx, req.param("id"), wish).await
}

/// Evacuates a server. What it answers is not what an action answers elsewhere, and before 2.14 it names the password.
pub async fn evacuate(compute: &Compute, req: &Request, field: Field<'_>) -> Result<Response> {
    let version = req.version;
    let mut f = Fields::of(field)?;
    let target = f.take("host", fields::fqdn)?;
    let shared = if version < v(14) { Some(f.need("onSharedStorage", fields::boolean)?) } else { None };
    let told = f.take("adminPass", fields::text(0, 65535))?;
    let force = f.take_if((v(29)..v(68)).contains(&version), "force", fields::boolean)?.unwrap_or(false);
    f.finish()?;
    if force && target.is_none() {
        return Err(Error::invalid("Can't force to a non-provided destination"));
    }
    if told.is_some() && shared == Some(true) {
        return Err(Error::invalid("admin password can't be changed on existing disk"));
    }
    let admin_pass = match told {
        None if shared == Some(false) => Some(password()?),
        told => told,
    };
    // Before 2.29 a host that was named was taken as it was.
    let forced = force || (version < v(29) && target.is_some());
    let wish = Evacuate { target, forced, shared, stopped: version >= v(95), admin_pass: admin_pass.clone() };
    compute.server_evacuate(&req.ctx, req.param("id"), wish).await?;
    match version < v(14) {
        true => json(200, &json!({"adminPass": admin_pass})),
        false => empty(200),
    }
}

/// An action that went with the hypervisor it was for.
pub fn gone() -> Error {
    Error::new(Kind::Gone, "This resource is no longer available. No forwarding address is given.")
}

pub fn null(field: Field) -> Result<()> {
    match field.value {
        Value::Null => Ok(()),
        _ => Err(field.wrong("it must be null")),
    }
}
