//! Another disk for a server: rebuild, rescue, and the way back.

use std::collections::BTreeMap;

use base::{Context, Error, Result};

use super::power::PowerAction;
use super::{create, target};
use crate::Compute;
use crate::db::servers::{PublicKey, Rescue, Server};
use crate::keypairs;

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
}

impl Compute {
    /// Begins a rebuild; answers the server and its password.
    pub async fn server_rebuild(&self, ctx: &Context, id: &str, wish: Rebuild) -> Result<(Server, String)> {
        let server = self.server_for(ctx, id, "os_compute_api:servers:rebuild").await?;
        if let Some(certs) = &wish.trusted_certs {
            self.authorize("os_compute_api:servers:rebuild:trusted_certs", ctx, &target(&server))?;
            if certs.is_some() {
                return Err(Error::invalid("trusted_image_certificates: this cloud does not validate image signatures."));
            }
        }
        // What refuses it anyway is told before what may be wrong with the image.
        Self::power_check(PowerAction::Rebuild, ctx, &server)?;
        if server.boots_from_volume() {
            return Err(Error::invalid("Unable to rebuild with a different image for a volume-backed server."));
        }
        let owner = serde_json::json!({"project_id": server.project_id, "user_id": server.user_id});
        let image = self.boot_image(ctx, &wish.image_ref, server.flavor()?, &owner).await?;
        if wish.auto_disk_config == Some(true)
            && image.properties.get("auto_disk_config").is_some_and(|v| v.eq_ignore_ascii_case("disabled"))
        {
            return Err(Error::invalid(format!("Requested image {} has automatic disk resize disabled.", wish.image_ref)));
        }
        let password = match &wish.admin_pass {
            Some(password) => password.clone(),
            None => create::password()?,
        };
        let changed = self
            .server_change(ctx, id, move |this, tx, ctx, server| {
                Self::power_check(PowerAction::Rebuild, ctx, server)?;
                if let Some(metadata) = wish.metadata {
                    create::metadata_fits_in(tx, &server.project_id, &metadata)?;
                    server.doc.metadata = metadata;
                }
                create::check_files_in(tx, &server.project_id, &wish.files)?;
                if !wish.files.is_empty() {
                    server.doc.files = wish.files;
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
                    server.display_name = name;
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
                server.image_ref = image.id.clone();
                server.doc.image = Some(image);
                server.doc.root_image = None;
                let disks = &mut server.doc.disks;
                disks.root = disks.fresh();
                disks.root_from = None;
                disks.swap = disks.fresh();
                if !wish.preserve_ephemeral {
                    disks.ephemeral = disks.fresh();
                    disks.ephemeral_from = None;
                }
                server.progress = 0;
                this.power_begin_in(tx, ctx, server, PowerAction::Rebuild, None)?;
                Ok(server.clone())
            })
            .await?;
        Ok((changed, password))
    }

    /// Starts a server from another image (its own, when none is named), with its own disks beside; answers its password.
    pub async fn server_rescue(&self, ctx: &Context, id: &str, image: Option<String>, password: Option<String>) -> Result<String> {
        let server = self.server_for(ctx, id, "os_compute_api:os-rescue").await?;
        Self::power_check(PowerAction::Rescue, ctx, &server)?;
        if server.boots_from_volume() {
            let why = "Cannot rescue a volume-backed instance";
            return Err(Error::invalid(format!("Instance {} cannot be rescued: {why}", server.id)));
        }
        let image = match image {
            Some(image) => {
                let owner = serde_json::json!({"project_id": server.project_id, "user_id": server.user_id});
                self.boot_image(ctx, &image, server.flavor()?, &owner).await?
            }
            // What the server was made from is at hand, even when the image is gone.
            None => server
                .doc
                .root_image
                .or(server.doc.image)
                .ok_or_else(|| Error::invalid(format!("Instance {id} cannot be rescued: it was not made from an image.")))?,
        };
        let told = password.clone();
        let password = match password {
            Some(password) => password,
            None => create::password()?,
        };
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            Self::power_check(PowerAction::Rescue, ctx, server)?;
            let revision = server.doc.disks.fresh();
            server.doc.rescue = Some(Rescue { image, revision, admin_pass: told });
            this.power_begin_in(tx, ctx, server, PowerAction::Rescue, None)
        })
        .await?;
        Ok(password)
    }

    pub async fn server_unrescue(&self, ctx: &Context, id: &str) -> Result<()> {
        self.server_for(ctx, id, "os_compute_api:os-unrescue").await?;
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            Self::power_check(PowerAction::Unrescue, ctx, server)?;
            server.doc.rescue = None;
            this.power_begin_in(tx, ctx, server, PowerAction::Unrescue, None)
        })
        .await
    }
}
