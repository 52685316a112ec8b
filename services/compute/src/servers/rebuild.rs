//! Another disk for a server: rebuild, rescue, and the way back.

use std::collections::BTreeMap;

use base::{Context, Error, Result};
use image::Doubt;
use rpc::instance::Power;
use store::Tx;

use super::former::Former;
use super::mending::Mend;
use super::power::PowerAction;
use super::{create, require_unlocked, target};
use crate::Compute;
use crate::cpus;
use crate::db::servers::{self as db, ImageFacts, PublicKey, Rescue, Server};
use crate::db::{actions, volumes as rows};
use crate::keypairs;
use crate::op::{self, server_reimage};
use crate::states::{task, vm};

/// What a rebuild asks for; what is not said stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rebuild {
    pub image_ref: String,
    pub admin_pass: Option<String>,
    pub name: Option<String>,
    pub description: Option<Option<String>>,
    pub metadata: Option<BTreeMap<String, String>>,
    pub preserve_ephemeral: bool,
    pub auto_disk_config: Option<bool>,
    pub access_ip_v4: Option<String>,
    pub access_ip_v6: Option<String>,
    pub files: Vec<(String, String)>,
    pub key_name: Option<Option<String>>,
    pub user_data: Option<Option<String>>,
    pub trusted_certs: Option<Option<Vec<String>>>,
    pub hostname: Option<String>,
    /// A volume that it boots from becomes the image: since 2.93.
    pub reimage: bool,
    /// It is the system's try to mend it.
    pub mend: Option<Mend>,
}

/// What a rebuild makes of the root disk.
enum Root {
    Disk(ImageFacts),
    /// A volume that stays as it is.
    Kept,
    /// A volume that becomes an image.
    Reimaged {
        volume_id: String,
        facts: ImageFacts,
    },
}

impl Compute {
    /// Begins a rebuild; answers the server and its password.
    pub async fn server_rebuild(&self, ctx: &Context, id: &str, wish: Rebuild, token: Option<&str>) -> Result<(Server, String)> {
        let server = self.server_for(ctx, id, "os_compute_api:servers:rebuild").await?;
        if let Some(certs) = &wish.trusted_certs {
            self.authorize("os_compute_api:servers:rebuild:trusted_certs", ctx, &target(&server))?;
            if certs.is_some() && server.boots_from_volume() {
                return Err(Error::invalid("trusted_image_certificates: images cannot be validated for servers that boot from a volume."));
            }
        }
        // What refuses it anyway is told before what may be wrong with the image.
        Self::power_check(PowerAction::Rebuild, ctx, &server)?;
        let trusted = match &wish.trusted_certs {
            Some(named) => self.trusted_certs(named.clone()),
            None => server.doc.trusted_certs.clone(),
        };
        let mut root = self.rebuild_root(ctx, &server, &wish).await?;
        if let Root::Disk(facts) = &mut root {
            let unfit = facts.doubt.take();
            refused(unfit.as_ref())?;
            facts.doubt = match wish.mend {
                // It is the image that the server was started from, and nobody's token is there.
                Some(_) if server.doc.image.as_ref().is_some_and(|image| image.sha256 == facts.sha256 && image.doubt.is_none()) => None,
                _ => self.image_doubt(ctx, token, &wish.image_ref, trusted.as_deref()).await?,
            };
            refused(facts.doubt.as_ref())?;
        }
        let properties = match &root {
            Root::Disk(facts) | Root::Reimaged { facts, .. } => &facts.properties,
            Root::Kept => &Default::default(),
        };
        if wish.auto_disk_config == Some(true) && properties.get("auto_disk_config").is_some_and(|v| v.eq_ignore_ascii_case("disabled")) {
            return Err(Error::invalid(format!("Requested image {} has automatic disk resize disabled.", wish.image_ref)));
        }
        if !matches!(root, Root::Kept) && cpus::of(server.flavor()?, properties)? != cpus::of_server(&server) {
            return Err(Error::invalid(
                "An instance's NUMA topology cannot be changed as part of a rebuild. The image provided is invalid for this instance.",
            ));
        }
        let password = match &wish.admin_pass {
            Some(password) => password.clone(),
            None => create::password()?,
        };
        let changed = self
            .server_change(ctx, id, move |this, tx, ctx, server| {
                Self::power_check(PowerAction::Rebuild, ctx, server)?;
                let former = match &root {
                    Root::Disk(image) => Former::kept(server, image),
                    _ => None,
                };
                if let Some(metadata) = wish.metadata {
                    create::metadata_fits_in(tx, &server.project_id, &metadata)?;
                    server.doc.metadata = metadata;
                }
                create::check_files_in(tx, &server.project_id, &wish.files)?;
                if !wish.files.is_empty() {
                    server.doc.files = wish.files;
                }
                if wish.trusted_certs.is_some() {
                    server.doc.trusted_certs = trusted;
                }
                if let Some(name) = wish.key_name {
                    server.doc.public_key = match &name {
                        Some(name) => {
                            let key = keypairs::keypair_fetch_in(tx, &ctx.user_id, name)?;
                            let key = key.ok_or_else(|| Error::invalid("Invalid key_name provided."))?;
                            Some(PublicKey { name: key.name, kind: key.kind, data: key.public_key })
                        }
                        None => None,
                    };
                    server.key_name = name;
                }
                if let Some(user_data) = wish.user_data {
                    server.doc.user_data = user_data;
                }
                if let Some(name) = wish.name {
                    let before = std::mem::replace(&mut server.display_name, name);
                    this.vim_renamed_in(tx, server, &before)?;
                }
                if let Some(description) = wish.description {
                    server.display_description = description;
                }
                if let Some(hostname) = wish.hostname {
                    server.hostname = hostname;
                }
                if let Some(auto) = wish.auto_disk_config {
                    server.auto_disk_config = auto;
                }
                server.access_ip_v4 = wish.access_ip_v4.or(server.access_ip_v4.take());
                server.access_ip_v6 = wish.access_ip_v6.or(server.access_ip_v6.take());
                if let Some(password) = wish.admin_pass {
                    server.doc.admin_pass = Some(password);
                }
                let disks = &mut server.doc.disks;
                if let Root::Disk(image) = &root {
                    server.image_ref = image.id.clone();
                    server.doc.image = Some(image.clone());
                    server.doc.root_image = None;
                    disks.root = disks.fresh();
                    disks.root_from = None;
                }
                disks.swap = disks.fresh();
                if !wish.preserve_ephemeral {
                    disks.ephemeral = disks.fresh();
                    disks.ephemeral_from = None;
                }
                server.progress = 0;
                if let Some(mend) = wish.mend {
                    server.doc.mend(mend);
                }
                match root {
                    Root::Reimaged { volume_id, facts } => {
                        server.doc.image = Some(facts);
                        this.reimage_begin_in(tx, ctx, server, volume_id, wish.image_ref)?;
                    }
                    _ => this.power_begin_in(tx, ctx, server, PowerAction::Rebuild, None, former)?,
                }
                Ok(server.clone())
            })
            .await?;
        Ok((changed, password))
    }

    /// What becomes of the root disk, or why nothing may.
    async fn rebuild_root(&self, ctx: &Context, server: &Server, wish: &Rebuild) -> Result<Root> {
        if !server.boots_from_volume() {
            let owner = serde_json::json!({"project_id": server.project_id, "user_id": server.user_id});
            return self.boot_image(ctx, &wish.image_ref, server.flavor()?, &owner).await.map(Root::Disk);
        }
        let rows = self.core.store.read(|tx| rows::volumes_of_in(tx, &server.id)).await?;
        let volume_id = rows.into_iter().find(|row| row.boot_index == Some(0)).and_then(|row| row.volume_id);
        let volume_id = volume_id.ok_or_else(|| Error::conflict(format!("Instance {} has no root volume.", server.id)))?;
        let volume = self.volumes.volume_facts(ctx, &volume_id).await?;
        if !wish.reimage {
            if volume.image_metadata.get("image_id") != Some(&wish.image_ref) {
                return Err(Error::invalid("Unable to rebuild with a different image for a volume-backed server."));
            }
            return Ok(Root::Kept);
        }
        let root =
            crate::volumes::Root { size: Some(volume.size), image_metadata: Default::default(), image: Some(wish.image_ref.clone()) };
        let facts = self.root_image(ctx, &root, server.flavor()?).await?;
        // What block storage would refuse is told now.
        self.volumes.volume_image(ctx, Some(&wish.image_ref)).await?;
        Ok(Root::Reimaged { volume_id, facts })
    }

    fn reimage_begin_in(&self, tx: &Tx, ctx: &Context, server: &mut Server, volume_id: String, image_id: String) -> Result<()> {
        require_unlocked(server, ctx)?;
        self.server_host(server)?;
        let action = PowerAction::Rebuild;
        let runs = server.vm_state != vm::STOPPED;
        server.task_state = Some(task::REBUILDING.into());
        server.want(Power::Stopped);
        db::server_update_in(tx, server)?;
        actions::action_start_in(tx, &server.id, action.verb(), ctx)?;
        crate::notify::server_event_in(tx, "rebuild.start", server, ctx, None)?;
        self.vim_begin_in(tx, ctx, server, action.log_name())?;
        let params = server_reimage::Params { volume_id, image_id, runs };
        let params = serde_json::to_value(params).map_err(|e| Error::internal("writing parameters").caused_by(e))?;
        self.core.tasks.submit(tx, op::submit(server_reimage::KIND, server, ctx, params)).map(drop)
    }

    /// Starts a server from another image (its own, when none is named), with its own disks beside; answers its password.
    /// `volumes`: also one that boots from a volume.
    pub async fn server_rescue(
        &self,
        ctx: &Context,
        id: &str,
        image: Option<String>,
        password: Option<String>,
        volumes: bool,
        token: Option<&str>,
    ) -> Result<String> {
        let server = self.server_for(ctx, id, "os_compute_api:os-rescue").await?;
        Self::power_check(PowerAction::Rescue, ctx, &server)?;
        if server.boots_from_volume() && !volumes {
            let why = "Cannot rescue a volume-backed instance";
            return Err(Error::invalid(format!("Instance {} cannot be rescued: {why}", server.id)));
        }
        let image = match image {
            Some(image) => {
                let owner = serde_json::json!({"project_id": server.project_id, "user_id": server.user_id});
                let facts = self.boot_image(ctx, &image, server.flavor()?, &owner).await?;
                refused(facts.doubt.as_ref())?;
                let doubt = self.image_doubt(ctx, token, &image, server.doc.trusted_certs.as_deref()).await?;
                refused(doubt.as_ref())?;
                ImageFacts { doubt, ..facts }
            }
            // What the server was made from is at hand, even when the image is gone.
            None => server
                .doc
                .root_image
                .or(server.doc.image)
                .filter(|image| !image.sha256.is_empty())
                .ok_or_else(|| Error::invalid(format!("Instance {id} cannot be rescued: it was not made from an image.")))?,
        };
        let told = password.clone();
        let password = match password {
            Some(password) => password,
            None => create::password()?,
        };
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            Self::power_check(PowerAction::Rescue, ctx, server)?;
            let former = Former::kept(server, &image);
            let revision = server.doc.disks.fresh();
            server.doc.rescue = Some(Rescue { image, revision, admin_pass: told });
            this.power_begin_in(tx, ctx, server, PowerAction::Rescue, None, former)
        })
        .await?;
        Ok(password)
    }

    pub async fn server_unrescue(&self, ctx: &Context, id: &str) -> Result<()> {
        self.server_for(ctx, id, "os_compute_api:os-unrescue").await?;
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            Self::power_check(PowerAction::Unrescue, ctx, server)?;
            server.doc.rescue = None;
            this.power_begin_in(tx, ctx, server, PowerAction::Unrescue, None, None)
        })
        .await
    }
}

/// A server that is there is left as it is when its new image is refused.
fn refused(doubt: Option<&Doubt>) -> Result<()> {
    match doubt {
        Some(Doubt::Refused(why)) => Err(Error::invalid(why.clone())),
        _ => Ok(()),
    }
}
