//! Creating servers: everything that can be refused is refused before anything is written.

use std::collections::BTreeMap;

use base::{Context, Error, Kind, Result, Timestamp};
use image::{Doubt, bootable};
use network::{NicPlan, NicWanted};
use rpc::instance::Power;
use store::Tx;

use crate::Compute;
use crate::api::server_body::{BlockDevice, Networks, ServerCreate, hint_ids};
use crate::cpus;
use crate::db::server_groups::{self, ServerGroup};
use crate::db::servers::{self as db, ImageFacts, PlacementWish, PublicKey, Server, ServerDoc};
use crate::db::{actions, nodes, tags};
use crate::flavors::{self, Flavor};
use crate::keypairs;
use crate::op::{self, server_create::Params};
use crate::quotas;
use crate::states::{power, task, vm};
use crate::volumes::{Root, Wanted, image_devices, is_volume};

const CREATE: &str = "os_compute_api:servers:create";

/// What a create answers with.
#[derive(Debug)]
pub struct Created {
    /// The first of the servers.
    pub server: Server,
    pub admin_pass: String,
}

/// What was found before the transaction.
struct Ready {
    wish: ServerCreate,
    flavor: Flavor,
    image: ImageFacts,
    key: Option<PublicKey>,
    nics: Vec<NicPlan>,
    placement: PlacementWish,
    pinned_zone: Option<String>,
    ephemeral: Option<u64>,
    swap: Option<u64>,
    /// Volumes, and what it boots from when that is one of them.
    volumes: Wanted,
    admin_pass: String,
    /// Whether the caller gave the password: only then the guest is told it.
    own_pass: bool,
}

impl Compute {
    pub async fn server_create(&self, ctx: &Context, mut wish: ServerCreate, token: Option<&str>) -> Result<Created> {
        let target =
            serde_json::json!({"project_id": ctx.project_id(), "user_id": ctx.user_id, "availability_zone": wish.availability_zone});
        self.authorize(CREATE, ctx, &target)?;
        if wish.trusted_certs.is_some() {
            self.authorize("os_compute_api:servers:create:trusted_certs", ctx, &target)?;
        }
        let (zone, forced_host) = parse_zone(wish.availability_zone.as_deref())?;
        if forced_host.is_some() {
            self.authorize("os_compute_api:servers:create:forced_host", ctx, &target)?;
        }
        let requested_host = wish.host.clone().or_else(|| wish.hypervisor_hostname.clone());
        if requested_host.is_some() {
            self.authorize("compute:servers:create:requested_destination", ctx, &target)?;
            if forced_host.is_some() {
                return Err(Error::invalid(
                    "One mechanism with host and/or hypervisor_hostname and another mechanism with zone:host:node are mutually exclusive.",
                ));
            }
            if wish.host.is_some() && wish.hypervisor_hostname.is_some() && wish.host != wish.hypervisor_hostname {
                let name = wish.hypervisor_hostname.as_deref().unwrap_or_default();
                return Err(Error::invalid(format!("Compute host {name} could not be found.")));
            }
        }
        if !wish.devices.is_empty() {
            self.authorize("os_compute_api:servers:create:attach_volume", ctx, &target)?;
        }
        self.image_devices(ctx, &mut wish).await?;
        let local = local_devices(&wish)?;
        let volumes = self.volumes_wanted(ctx, &wish).await?;
        if wish.image_ref.is_none() && volumes.root.is_none() {
            return Err(Error::invalid("Missing imageRef attribute"));
        }
        if matches!(wish.networks, Networks::Auto | Networks::List(_)) {
            self.authorize("os_compute_api:servers:create:attach_network", ctx, &target)?;
        }
        let many = wish.max_count > 1;
        check_many(&wish, many)?;
        let hosts = [forced_host.clone(), requested_host.clone()];
        let (user, project, admin) = (ctx.user_id.clone(), ctx.project_id().to_string(), ctx.is_admin());
        let (flavor, key) = self
            .core
            .store
            .read(|tx| {
                let flavor = flavor_for_in(tx, &wish.flavor_ref, &project, admin)?;
                check_places_in(tx, zone.as_deref(), &hosts)?;
                metadata_fits_in(tx, &project, &wish.metadata)?;
                check_files_in(tx, &project, &wish.files)?;
                let key = match &wish.key_name {
                    Some(name) => Some(
                        keypairs::keypair_fetch_in(tx, &user, name)?
                            .map(|k| PublicKey { name: k.name, kind: k.kind, data: k.public_key })
                            .ok_or_else(|| Error::invalid("Invalid key_name provided."))?,
                    ),
                    None => None,
                };
                Ok((flavor, key))
            })
            .await?;
        check_local(&local, &flavor)?;
        let image = match (&volumes.root, &wish.image_ref) {
            (Some(_), _) if wish.trusted_certs.is_some() => {
                return Err(Error::invalid("trusted_image_certificates: images cannot be validated for servers that boot from a volume."));
            }
            (Some(root), _) => self.root_image(ctx, root, &flavor).await?,
            (None, Some(id)) => {
                wish.trusted_certs = self.trusted_certs(wish.trusted_certs.take());
                let facts = self.boot_image(ctx, id, &flavor, &target).await?;
                let doubt = match facts.doubt {
                    Some(doubt) => Some(doubt),
                    None => self.image_doubt(ctx, token, id, wish.trusted_certs.as_deref()).await?,
                };
                ImageFacts { doubt, ..facts }
            }
            (None, None) => return Err(Error::invalid("Missing imageRef attribute")),
        };
        let image_id = image.id.clone();
        cpus::of(&flavor, &image.properties)?;
        if wish.auto_disk_config == Some(true)
            && image.properties.get("auto_disk_config").is_some_and(|v| v.eq_ignore_ascii_case("disabled"))
        {
            return Err(Error::invalid(format!("Requested image {image_id} has automatic disk resize disabled.")));
        }
        let nics = self.nics_for(ctx, &wish).await?;
        let hints = &wish.hints;
        let placement = PlacementWish {
            zone: if forced_host.is_some() { None } else { zone.clone() },
            forced_host,
            requested_host,
            same_host: hint_ids(hints, "same_host"),
            different_host: hint_ids(hints, "different_host"),
            group: hint_ids(hints, "group").into_iter().next(),
        };
        let own_pass = wish.admin_pass.is_some();
        let admin_pass = match &wish.admin_pass {
            Some(password) => password.clone(),
            None => password()?,
        };
        let ready = Ready {
            flavor,
            image,
            key,
            nics,
            placement,
            pinned_zone: zone,
            ephemeral: local.ephemeral,
            swap: local.swap,
            volumes,
            admin_pass: admin_pass.clone(),
            own_pass,
            wish,
        };
        let (this, ctx) = (self.clone(), ctx.clone());
        let server = self.core.store.write(move |tx| this.servers_insert_in(tx, &ctx, &ready)).await?;
        Ok(Created { server, admin_pass })
    }

    /// Adds the block devices that the image names, as images of volume-backed servers do. What the request says of a device
    /// outranks them.
    async fn image_devices(&self, ctx: &Context, wish: &mut ServerCreate) -> Result<()> {
        let Some(id) = &wish.image_ref else { return Ok(()) };
        // Whether the image can be had at all is told where it is looked at as a whole.
        let Ok(image) = self.images.boot_image(ctx, id).await else { return Ok(()) };
        let mut named = image_devices(&image.properties)?;
        named.retain(|d| d.device_name.is_none() || !wish.devices.iter().any(|own| own.device_name == d.device_name));
        if named.iter().any(|d| d.boot_index == Some(0)) {
            wish.devices.retain(|d| !(d.source == Some("image") && !is_volume(d) && d.boot_index == Some(0)));
        }
        wish.devices.append(&mut named);
        Ok(())
    }

    /// The image as a boot needs it, or why it cannot be booted.
    pub(crate) async fn boot_image(&self, ctx: &Context, id: &str, flavor: &Flavor, target: &serde_json::Value) -> Result<ImageFacts> {
        let image = self.images.boot_image(ctx, id).await.map_err(|error| match error.kind() {
            Kind::NotFound | Kind::Forbidden => Error::invalid("Can not find requested image"),
            _ => error,
        })?;
        if image.status != "active" {
            return Err(Error::invalid(format!("Image {id} is not active.")));
        }
        image.content_known()?;
        if !bootable::is_bootable(&image.disk_format) {
            return Err(Error::invalid(format!("Image {id} is unacceptable: disk format {} cannot be booted.", image.disk_format)));
        }
        if flavor.memory_mb < image.min_ram_mib {
            return Err(Error::invalid("Flavor's memory is too small for requested image."));
        }
        let natural = image.virtual_size.unwrap_or(image.size);
        if flavor.root_gb == 0 {
            if !self.may("os_compute_api:servers:create:zero_disk_flavor", ctx, target) {
                return Err(Error::forbidden("Only volume-backed servers are allowed for flavors with zero disk."));
            }
        } else {
            let room = flavor.root_gb << 30;
            let least = image.min_disk_gib << 30;
            if natural > room {
                return Err(Error::invalid(format!(
                    "Flavor's disk is too small for requested image. Flavor disk is {room} bytes, image is {natural} bytes."
                )));
            }
            if least > room {
                return Err(Error::invalid(format!(
                    "The size of the flavor's disk, {room} bytes, is smaller than the least size the image asks for: {least} bytes."
                )));
            }
        }
        let doubt = image.content_unfit().map(Doubt::Refused);
        Ok(ImageFacts { doubt, ..image.into() })
    }

    /// What a server that boots from a volume knows of the image behind it. It has no disk made of that image.
    pub(crate) async fn root_image(&self, ctx: &Context, root: &Root, flavor: &Flavor) -> Result<ImageFacts> {
        let Some(id) = &root.image else {
            let least = root.image_metadata.get("min_ram").and_then(|m| m.parse().ok()).unwrap_or(0);
            if flavor.memory_mb < least {
                return Err(Error::invalid("Flavor's memory is too small for requested image."));
            }
            return Ok(ImageFacts { properties: root.image_metadata.clone(), ..ImageFacts::default() });
        };
        let image = self.images.boot_image(ctx, id).await.map_err(|error| match error.kind() {
            Kind::NotFound | Kind::Forbidden => Error::invalid(format!("Block Device Mapping is Invalid: failed to get image {id}.")),
            _ => error,
        })?;
        if image.status != "active" {
            return Err(Error::invalid(format!("Image {id} is not active.")));
        }
        image.content_known()?;
        if flavor.memory_mb < image.min_ram_mib {
            return Err(Error::invalid("Flavor's memory is too small for requested image."));
        }
        let size = u64::try_from(root.size.unwrap_or(0)).unwrap_or(0);
        if size < image.min_disk_gib || (size << 30) < image.virtual_size.unwrap_or(image.size) {
            return Err(Error::invalid("Volume is smaller than the minimum size specified in image metadata."));
        }
        Ok(ImageFacts { properties: image.properties, ..ImageFacts::default() })
    }

    async fn nics_for(&self, ctx: &Context, wish: &ServerCreate) -> Result<Vec<NicPlan>> {
        let wanted = match &wish.networks {
            Networks::None => return Ok(Vec::new()),
            Networks::Unset | Networks::Auto => vec![NicWanted::Auto],
            Networks::List(list) => list
                .iter()
                .map(|n| match (&n.port, &n.uuid) {
                    (Some(port), _) => NicWanted::Port { id: port.clone(), tag: n.tag.clone() },
                    (None, network) => {
                        NicWanted::Network { id: network.clone().unwrap_or_default(), fixed_ip: n.fixed_ip, tag: n.tag.clone() }
                    }
                })
                .collect(),
        };
        let groups = wish.security_groups.clone().unwrap_or_default();
        let plan = self.network.nics_plan(ctx, &wanted, &groups).await.map_err(|error| match error.kind() {
            // Whatever of the request cannot be found makes the request bad.
            Kind::NotFound => Error::invalid(error.message().to_string()),
            Kind::QuotaExceeded => Error::forbidden(error.message().to_string()),
            _ if error.status().is_some() || error.name().is_some() => Error::new(error.kind(), error.message().to_string()),
            _ => error,
        })?;
        if plan.is_empty() && wish.networks == Networks::Auto {
            return Err(Error::invalid(format!("Unable to automatically allocate a network for project {}", ctx.project_id())));
        }
        Ok(plan)
    }

    /// Writes the servers, as many as the quota lets in, each with the operation that builds it. Answers the first.
    fn servers_insert_in(&self, tx: &Tx, ctx: &Context, ready: &Ready) -> Result<Server> {
        let wish = &ready.wish;
        let (project, user) = (ctx.project_id(), ctx.user_id.as_str());
        let vcpus = i64::from(ready.flavor.vcpus);
        let memory = i64::try_from(ready.flavor.memory_mb).unwrap_or(i64::MAX);
        let count = quotas::servers_reserve_in(tx, project, user, wish.min_count, wish.max_count, vcpus, memory)?;
        let group = ready.placement.group.as_deref().map(|group| check_group_in(tx, group, ctx, count)).transpose()?;
        let mut members = Vec::new();
        let reservation_id = format!("r-{}", base::id::short(&base::id::hex(), 8));
        let mut first = None;
        for index in 0..count {
            let server = self.server_new(tx, ctx, ready, &reservation_id, index, wish.max_count > 1)?;
            db::server_insert_in(tx, &server)?;
            for tag in &wish.tags {
                tags::tag_add_in(tx, &server.id, tag)?;
            }
            if let Some(group) = &group {
                server_groups::member_add_in(tx, &group.id, &server.id)?;
                members.push(server.id.clone());
            }
            let locals = usize::from(ready.image.sha256.len() == 64)
                + usize::from(ready.ephemeral.unwrap_or(ready.flavor.ephemeral_gb) > 0)
                + usize::from(ready.swap.unwrap_or(ready.flavor.swap_mb) > 0);
            self.volumes_plan_in(tx, ctx, &server, &ready.volumes, locals)?;
            actions::action_start_in(tx, &server.id, "create", ctx)?;
            crate::notify::server_event_in(tx, "create.start", &server, ctx, None)?;
            self.vim_begin_in(tx, ctx, &server, "Create")?;
            let params = serde_json::to_value(Params { nics: ready.nics.clone() })
                .map_err(|e| Error::internal("writing an operation's parameters").caused_by(e))?;
            self.core.tasks.submit(tx, op::submit(op::server_create::KIND, &server, ctx, params))?;
            first.get_or_insert(server);
        }
        if let Some(group) = &group {
            crate::server_groups::event_in(tx, "addmember", group, &members, ctx)?;
        }
        first.ok_or_else(|| Error::quota("Quota exceeded for instances"))
    }

    fn server_new(&self, tx: &Tx, ctx: &Context, ready: &Ready, reservation_id: &str, index: i64, many: bool) -> Result<Server> {
        let (wish, now) = (&ready.wish, Timestamp::now());
        let id = base::id::uuid();
        let suffix = |name: &str| if many { format!("{name}-{}", index + 1) } else { name.to_string() };
        let hostname = match &wish.hostname {
            Some(hostname) => hostname.clone(),
            None => match host_label(&wish.name) {
                label if label.is_empty() => format!("Server-{id}"),
                label => suffix(&label),
            },
        };
        let owner_name = match &ctx.scope {
            base::Scope::Project { name, .. } => name.clone(),
            _ => String::new(),
        };
        let drive = wish.config_drive.unwrap_or_else(|| ready.image.properties.get("img_config_drive").is_some_and(|v| v == "mandatory"));
        Ok(Server {
            number: db::server_number_in(tx)?,
            id,
            generation: 1,
            project_id: ctx.project_id().to_string(),
            user_id: ctx.user_id.clone(),
            display_name: suffix(&wish.name),
            display_description: wish.description.clone(),
            hostname,
            vm_state: vm::BUILDING.into(),
            task_state: Some(task::SCHEDULING.into()),
            power_state: power::NOSTATE,
            host_id: None,
            host: None,
            node: None,
            // Shown while it is being built; the host's zone replaces it.
            availability_zone: ready.placement.zone.clone(),
            image_ref: ready.image.id.clone(),
            flavor_id: ready.flavor.id.clone(),
            vcpus: ready.flavor.vcpus,
            memory_mb: ready.flavor.memory_mb,
            key_name: wish.key_name.clone(),
            config_drive: if drive { "True".into() } else { String::new() },
            reservation_id: reservation_id.to_string(),
            launch_index: u32::try_from(index).unwrap_or(0),
            root_device_name: Some(ready.image.properties.get("root_device_name").cloned().unwrap_or_else(|| "/dev/vda".into())),
            locked_by: None,
            access_ip_v4: wish.access_ip_v4.clone(),
            access_ip_v6: wish.access_ip_v6.clone(),
            auto_disk_config: wish.auto_disk_config.unwrap_or(false),
            progress: 0,
            created_at: now,
            updated_at: now,
            launched_at: None,
            terminated_at: None,
            deleted: false,
            wanted: Power::Running,
            spec_generation: 1,
            boot: 0,
            doc: ServerDoc {
                flavor: Some(ready.flavor.clone()),
                image: Some(ready.image.clone()),
                metadata: wish.metadata.clone(),
                user_data: wish.user_data.clone(),
                trusted_certs: wish.trusted_certs.clone(),
                public_key: ready.key.clone(),
                files: wish.files.clone(),
                pinned_zone: ready.pinned_zone.clone(),
                hints: if wish.hints.is_empty() { serde_json::json!({}) } else { serde_json::Value::Object(wish.hints.clone()) },
                admin_pass: ready.own_pass.then(|| ready.admin_pass.clone()),
                placement: ready.placement.clone(),
                ephemeral: ready.ephemeral,
                swap: ready.swap,
                seed: format!("{}{}", base::id::hex(), base::id::hex()),
                owner_name,
                security_groups: wish.security_groups.clone().unwrap_or_default(),
                ..ServerDoc::default()
            },
        })
    }
}

/// `zone`, `zone:host`, `zone:host:node` or `zone::node`; a node is its host here.
fn parse_zone(text: Option<&str>) -> Result<(Option<String>, Option<String>)> {
    let Some(text) = text else { return Ok((None, None)) };
    let parts: Vec<&str> = text.split(':').collect();
    let some = |s: &str| if s.is_empty() { None } else { Some(s.to_string()) };
    match parts.as_slice() {
        [zone] => Ok((some(zone), None)),
        [zone, host] => Ok((some(zone), some(host))),
        [zone, host, node] => Ok((some(zone), some(host).or_else(|| some(node)))),
        _ => Err(Error::invalid("Unable to parse availability_zone")),
    }
}

/// What cannot be shared by several servers must not be asked for them.
fn check_many(wish: &ServerCreate, many: bool) -> Result<()> {
    if !many {
        return Ok(());
    }
    if let Networks::List(list) = &wish.networks {
        if list.iter().any(|n| n.fixed_ip.is_some()) {
            return Err(Error::invalid("Cannot specify fixed IP address when creating more than one server: max_count must be 1."));
        }
        if list.iter().any(|n| n.port.is_some()) {
            return Err(Error::invalid(
                "Unable to launch multiple instances with a single configured port ID. Please launch your instance one by one with different ports.",
            ));
        }
    }
    if wish.hostname.is_some() {
        return Err(Error::invalid("Unable to allocate a single hostname to multiple instances"));
    }
    Ok(())
}

pub(crate) fn flavor_for_in(tx: &Tx, id: &str, project: &str, admin: bool) -> Result<Flavor> {
    let missing = || Error::invalid(format!("Flavor {id} could not be found."));
    let flavor = flavors::flavor_fetch_in(tx, id)?.ok_or_else(missing)?;
    let visible = flavor.is_public || admin || flavors::flavor_access_has_in(tx, id, project)?;
    if flavor.disabled || !visible {
        return Err(missing());
    }
    Ok(flavor)
}

/// The zone must hold a usable host, and a named host must exist.
fn check_places_in(tx: &Tx, zone: Option<&str>, hosts: &[Option<String>]) -> Result<()> {
    for name in hosts.iter().flatten() {
        if nodes::node_by_name_in(tx, name)?.is_none() {
            return Err(Error::invalid(format!("Compute host {name} could not be found.")));
        }
    }
    let Some(zone) = zone.filter(|_| hosts.iter().all(Option::is_none)) else { return Ok(()) };
    let zones = nodes::zones_in(tx)?;
    let usable = nodes::node_list_in(tx)?.into_iter().filter(|n| !n.disabled);
    let found = usable.into_iter().any(|n| zones.get(&n.name).map_or(nodes::DEFAULT_ZONE, String::as_str) == zone);
    if found { Ok(()) } else { Err(Error::invalid("The requested availability zone is not available")) }
}

pub(crate) fn check_files_in(tx: &Tx, project: &str, files: &[(String, String)]) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let over = |what: &str, limit: i64, size: usize| limit >= 0 && i64::try_from(size).unwrap_or(i64::MAX) > limit && !what.is_empty();
    let limit = quotas::limit_in(tx, project, "injected_files")?;
    if over("files", limit, files.len()) {
        return Err(Error::quota("Personality file limit exceeded."));
    }
    let longest = |part: fn(&(String, String)) -> usize| files.iter().map(part).max().unwrap_or(0);
    if over("paths", quotas::limit_in(tx, project, "injected_file_path_bytes")?, longest(|f| f.0.len())) {
        return Err(Error::quota("Personality file path exceeds maximum length."));
    }
    if over("contents", quotas::limit_in(tx, project, "injected_file_content_bytes")?, longest(|f| f.1.len() / 4 * 3)) {
        return Err(Error::quota("Personality file content exceeds maximum length."));
    }
    Ok(())
}

/// The group must be the project's, and have room for `more`.
fn check_group_in(tx: &Tx, id: &str, ctx: &Context, more: i64) -> Result<ServerGroup> {
    let seen = |group: &ServerGroup| ctx.is_admin() || group.project_id == ctx.project_id();
    let missing = || Error::invalid(format!("Instance group {id} could not be found."));
    let group = server_groups::server_group_fetch_in(tx, id)?.filter(seen).ok_or_else(missing)?;
    let limit = quotas::limit_in(tx, ctx.project_id(), "server_group_members")?;
    tx.lock(&format!("compute/group/{id}"))?;
    if limit >= 0 && server_groups::member_count_in(tx, id)? + more > limit {
        return Err(Error::quota("Quota exceeded, too many servers in group"));
    }
    Ok(group)
}

/// Sizes of local disks asked for beside the root disk.
#[derive(Debug, Default, PartialEq)]
struct Local {
    ephemeral: Option<u64>,
    swap: Option<u64>,
}

/// Reads the block devices. Only what needs no volume can be had: the image itself, blank local disks, swap.
fn local_devices(wish: &ServerCreate) -> Result<Local> {
    let bad = |why: &str| Error::invalid(format!("Block Device Mapping is Invalid: {why}"));
    let mut local = Local::default();
    let mut roots = 0;
    for device in wish.devices.iter().filter(|d| !d.no_device && !is_volume(d)) {
        match device {
            BlockDevice { source: Some("image"), boot_index: Some(0), uuid, .. } if wish.image_ref.is_some() => {
                if uuid.as_ref().is_some_and(|id| Some(id) != wish.image_ref.as_ref()) {
                    return Err(bad("the image to boot from is not the imageRef."));
                }
                roots += 1;
            }
            BlockDevice { source: Some("image"), .. } => return Err(bad("Mapping image to local is not supported.")),
            BlockDevice { source: Some("blank"), uuid: Some(_), .. } => return Err(bad("Invalid device UUID.")),
            BlockDevice { source: Some("blank"), destination: Some("local") | None, .. } => {
                let size = device.volume_size.and_then(|n| u64::try_from(n).ok());
                if device.guest_format.as_deref() == Some("swap") {
                    if local.swap.is_some() {
                        return Err(bad("more than one swap drive requested."));
                    }
                    local.swap = Some(size.unwrap_or(0));
                } else {
                    local.ephemeral = Some(local.ephemeral.unwrap_or(0) + size.unwrap_or(0));
                }
            }
            BlockDevice { .. } => return Err(bad("Unrecognized legacy format.")),
        }
    }
    if roots > 1 {
        return Err(bad("Boot sequence for the instance and image/block device mapping combination is not valid."));
    }
    Ok(local)
}

fn check_local(local: &Local, flavor: &Flavor) -> Result<()> {
    if local.ephemeral.is_some_and(|size| size > flavor.ephemeral_gb) {
        return Err(Error::invalid("Ephemeral disks requested are larger than the instance type allows."));
    }
    if local.swap.is_some_and(|size| size > flavor.swap_mb) {
        return Err(Error::invalid("Swap drive requested is larger than instance type allows."));
    }
    Ok(())
}

/// A host name made of a server's name.
pub fn host_label(name: &str) -> String {
    let latin: String = name.chars().filter(|c| (*c as u32) < 0x100).take(63).collect();
    let label: String = latin
        .chars()
        .map(|c| if matches!(c, ' ' | '_' | '.') { '-' } else { c })
        .filter(|c| c.is_alphanumeric() || *c == '-')
        .flat_map(char::to_lowercase)
        .collect();
    label.trim_matches(['.', '-']).to_string()
}

/// A password of twelve characters without those that look alike.
pub(crate) fn password() -> Result<String> {
    use base::error::Internal;
    const LETTERS: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut bytes = [0u8; 48];
    getrandom::fill(&mut bytes).internal("reading randomness")?;
    // Bytes beyond the last whole multiple are passed over, so that every letter is equally likely.
    let whole = 256 / LETTERS.len() * LETTERS.len();
    let letters: String =
        bytes.iter().filter(|b| usize::from(**b) < whole).take(12).map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()])).collect();
    Ok(letters)
}

/// Limits that several metadata changes share.
pub fn metadata_fits_in(tx: &Tx, project: &str, metadata: &BTreeMap<String, String>) -> Result<()> {
    let limit = quotas::limit_in(tx, project, "metadata_items")?;
    if limit >= 0 && metadata.len() as i64 > limit {
        return Err(Error::quota(format!("Maximum number of metadata items exceeds {limit}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_may_name_hosts() {
        let s = |t: &str| Some(t.to_string());
        assert_eq!(parse_zone(None).unwrap(), (None, None));
        assert_eq!(parse_zone(Some("nova")).unwrap(), (s("nova"), None));
        assert_eq!(parse_zone(Some("nova:h")).unwrap(), (s("nova"), s("h")));
        assert_eq!(parse_zone(Some("nova:h:n")).unwrap(), (s("nova"), s("h")));
        assert_eq!(parse_zone(Some(":h")).unwrap(), (None, s("h")));
        assert_eq!(parse_zone(Some("nova::n")).unwrap(), (s("nova"), s("n")));
        assert!(parse_zone(Some("a:b:c:d")).is_err());
    }

    #[test]
    fn host_names_come_from_names() {
        assert_eq!(host_label("My server_1.x"), "my-server-1-x");
        assert_eq!(host_label("名前"), "");
        assert_eq!(host_label("-a-"), "a");
        assert_eq!(host_label(&"x".repeat(99)).len(), 63);
    }

    #[test]
    fn passwords_differ_and_are_readable() {
        let (a, b) = (password().unwrap(), password().unwrap());
        assert_eq!(a.len(), 12);
        assert_ne!(a, b);
    }

    #[test]
    fn volumes_are_left_to_others_and_local_disks_understood() {
        let device =
            |source, destination, index| BlockDevice { source: Some(source), destination, boot_index: index, ..Default::default() };
        let wish = |devices| ServerCreate { image_ref: Some("i".into()), devices, ..Default::default() };
        assert_eq!(local_devices(&wish(vec![device("volume", Some("volume"), Some(0))])).unwrap(), Local::default());
        assert!(local_devices(&wish(vec![device("image", Some("local"), None)])).is_err());
        assert_eq!(local_devices(&wish(vec![device("image", Some("local"), Some(0))])).unwrap(), Local::default());
        let swap = BlockDevice { guest_format: Some("swap".into()), volume_size: Some(64), ..device("blank", Some("local"), Some(-1)) };
        assert_eq!(local_devices(&wish(vec![swap])).unwrap().swap, Some(64));
    }
}
