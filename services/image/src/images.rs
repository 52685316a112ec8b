//! The rules of images: who may do what in which state.

use std::collections::BTreeMap;

use base::{Context, Error, Kind, Result, Timestamp};
use events::Event;
use serde_json::json;

use crate::db::images as db;
use crate::limits::Resource;
use crate::model::{Image, Status, Visibility};
use crate::patch::Change;
use crate::{Images, KIND, attributes};

/// Upstream's default quotas for one image.
pub const MAX_PROPERTIES: usize = 128;
pub const MAX_TAGS: usize = 128;

pub fn not_found(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("No image found with ID {id}"))
}

/// The payload of this service's notifications.
pub fn payload(image: &Image) -> serde_json::Value {
    json!({
        "id": image.id,
        "name": image.name,
        "status": image.status.as_str(),
        "created_at": image.created_at.iso(),
        "updated_at": image.updated_at.iso(),
        "min_disk": image.min_disk,
        "min_ram": image.min_ram,
        "protected": image.protected,
        "checksum": image.checksum,
        "owner": image.owner,
        "disk_format": image.disk_format,
        "container_format": image.container_format,
        "size": image.size,
        "virtual_size": image.virtual_size,
        "is_public": image.visibility == Visibility::Public,
        "visibility": image.visibility.as_str(),
        "properties": image.properties,
        "tags": image.tags,
        "deleted": false,
        "deleted_at": null,
    })
}

/// Writes the event of a change into its transaction.
pub fn record(tx: &store::Tx, ctx: &Context, kind: &str, image: &Image) -> Result<()> {
    let event = Event::new(kind, &image.id, ctx).project(image.owner.clone().unwrap_or_default()).payload(payload(image));
    events::record(tx, &event)?;
    Ok(())
}

impl Images {
    pub(crate) fn is_admin(&self, ctx: &Context) -> bool {
        ctx.internal || self.core().policy.check(KIND, "context_is_admin", ctx, &())
    }

    /// The image, when the caller may see it; otherwise it does not exist.
    pub async fn image_show(&self, ctx: &Context, id: &str) -> Result<Image> {
        let project = ctx.project_id();
        let image = self.core().store.read(|tx| db::image_fetch(tx, id, project)).await?;
        let image = image.filter(|i| i.is_visible_to(project, self.is_admin(ctx)) && self.core().policy.check(KIND, "get_image", ctx, i));
        image.ok_or_else(|| not_found(id))
    }

    /// The image, when the caller may see it and `rule` lets him.
    pub(crate) async fn image_for(&self, ctx: &Context, id: &str, rule: &str) -> Result<Image> {
        let image = self.image_show(ctx, id).await?;
        self.core().authorize(KIND, rule, ctx, &image)?;
        Ok(image)
    }

    /// Makes an image without content from a request's body.
    pub async fn image_create(&self, ctx: &Context, body: serde_json::Map<String, serde_json::Value>) -> Result<Image> {
        let image = self.image_draft(ctx, body)?;
        let (this, ctx, stored) = (self.clone(), ctx.clone(), image.clone());
        let inserted = self.core().store.write(move |tx| this.image_insert_in(tx, &ctx, &stored));
        inserted.await.map_err(|error| match error.kind() {
            Kind::Exists => Error::conflict(format!("Image ID {} already exists!", image.id)).caused_by(error),
            _ => error,
        })?;
        Ok(image)
    }

    /// An image that the caller may make, not stored yet.
    pub fn image_draft(&self, ctx: &Context, body: serde_json::Map<String, serde_json::Value>) -> Result<Image> {
        let owner = Some(ctx.project_id()).filter(|p| !p.is_empty()).map(str::to_string);
        let image = attributes::image_from(body, owner)?;
        self.core().authorize(KIND, "add_image", ctx, &image).map_err(|error| match &image.owner {
            Some(owner) if error.is(Kind::Forbidden) && owner != ctx.project_id() => {
                Error::forbidden(format!("You are not permitted to create images owned by '{owner}'."))
            }
            _ => error,
        })?;
        self.check_visibility(ctx, image.visibility, &image)?;
        check_quotas(&image)?;
        Ok(image)
    }

    /// Stores a draft; for services whose own rows belong to the same transaction.
    pub fn image_insert_in(&self, tx: &store::Tx, ctx: &Context, image: &Image) -> Result<()> {
        self.enforce_in(tx, ctx.project_id(), Resource::CountTotal, 1)?;
        db::image_insert(tx, image)?;
        record(tx, ctx, "image.create", image)
    }

    /// Deletes what there is too much of a server's backups of one kind: all but the newest `keep`.
    pub async fn backups_rotate(&self, ctx: &Context, server_id: &str, kind: &str, keep: usize) -> Result<()> {
        let pairs =
            [("backup_type", kind), ("image_type", "backup"), ("instance_uuid", server_id), ("limit", "1000"), ("sort", "created_at:desc")];
        let query = http_api::Query(pairs.map(|(k, v)| (k.to_string(), v.to_string())).to_vec());
        let page = self.image_list(ctx, &query).await?;
        for image in page.images.iter().filter(|i| i.status == Status::Active).skip(keep) {
            match self.image_delete(ctx, &image.id).await {
                // Gone already, or protected by its owner: not ours to mind.
                Err(error) if error.is(Kind::NotFound) || error.is(Kind::Forbidden) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Whether the caller may give `image` this visibility.
    fn check_visibility(&self, ctx: &Context, wanted: Visibility, image: &Image) -> Result<()> {
        match wanted {
            Visibility::Public => self.core().authorize(KIND, "publicize_image", ctx, image),
            Visibility::Community => self.core().authorize(KIND, "communitize_image", ctx, image),
            Visibility::Private | Visibility::Shared => Ok(()),
        }
    }

    /// Applies the changes in order, all or none.
    pub async fn image_update(&self, ctx: &Context, id: &str, changes: Vec<Change>) -> Result<Image> {
        let mut image = self.image_show(ctx, id).await?;
        if changes.is_empty() {
            return Ok(image);
        }
        let before = image.locations.clone();
        for change in &changes {
            if change.name == "locations" {
                self.locations_change(ctx, &mut image, change).await?;
                continue;
            }
            if change.name == "visibility"
                && let Some(wanted) = change.value.as_ref().and_then(|v| v.as_str())
            {
                self.check_visibility(ctx, Visibility::parse(wanted)?, &image)?;
            }
            if change.name == "owner" && change.value.is_some() && !self.is_admin(ctx) {
                return Err(Error::forbidden("Owner can't be updated by non admin."));
            }
            self.core().authorize(KIND, "modify_image", ctx, &image)?;
            attributes::apply(&mut image, change)?;
        }
        check_quotas(&image)?;
        let image = self.image_store(ctx, image).await?;
        self.locations_release(&image, &before).await;
        Ok(image)
    }

    /// Gives an image these custom properties and no others. A property may not have the name of an attribute.
    pub async fn properties_replace(&self, ctx: &Context, id: &str, properties: BTreeMap<String, String>) -> Result<Image> {
        let mut image = self.image_for(ctx, id, "modify_image").await?;
        for name in properties.keys().filter(|name| !image.properties.contains_key(*name)) {
            attributes::check_property(name)?;
        }
        let own = std::mem::take(&mut image.properties).into_iter().filter(|(name, _)| attributes::is_reserved(name));
        image.properties = properties.into_iter().filter(|(name, _)| !attributes::is_reserved(name)).chain(own).collect();
        check_quotas(&image)?;
        self.image_store(ctx, image).await
    }

    /// Writes a changed image; answers it as it is now.
    pub(crate) async fn image_store(&self, ctx: &Context, mut image: Image) -> Result<Image> {
        image.updated_at = Timestamp::now();
        let (stored, cause) = (image.clone(), ctx.clone());
        let written = self.core().store.write(move |tx| {
            db::image_update(tx, &stored)?;
            record(tx, &cause, "image.update", &stored)
        });
        written.await?;
        image.generation += 1;
        Ok(image)
    }

    pub async fn image_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let image = self.image_for(ctx, id, "delete_image").await?;
        if image.protected {
            return Err(Error::forbidden(format!("Image {id} is protected and cannot be deleted.")));
        }
        self.image_remove(ctx, image.id, false).await
    }

    /// Removes an image whose content another service could not bring to its end, protected or not. One that is gone is fine.
    pub async fn image_drop(&self, ctx: &Context, id: &str) -> Result<()> {
        match self.image_remove(ctx, id.to_string(), true).await {
            Err(error) if error.is(Kind::NotFound) => Ok(()),
            other => other,
        }
    }

    async fn image_remove(&self, ctx: &Context, id: String, protected_too: bool) -> Result<()> {
        let (cause, project) = (ctx.clone(), ctx.project_id().to_string());
        let gone = self.core().store.write(move |tx| {
            // What was read before may have changed: protection and content are those of this transaction.
            let Some(now) = db::image_fetch(tx, &id, &project)? else { return Err(not_found(&id)) };
            if now.protected && !protected_too {
                return Err(Error::forbidden(format!("Image {} is protected and cannot be deleted.", now.id)));
            }
            let staged = db::staged_fetch(tx, &now.id)?;
            db::image_delete(tx, &now.id)?;
            record(tx, &cause, "image.delete", &now)?;
            Ok((now, staged))
        });
        let (gone, staged) = gone.await?;
        // The image is deleted; what is left of it is the reconciler's in the worst case.
        if let Err(error) = self.content_forget(&gone, staged).await {
            tracing::warn!(image = gone.id, "content of a deleted image could not be removed: {}", error.chain());
        }
        Ok(())
    }

    /// Takes an image out of one of the stores that have it.
    pub async fn image_delete_from_store(&self, ctx: &Context, store_id: &str, id: &str) -> Result<()> {
        let image = self.image_show(ctx, id).await?;
        self.core().authorize(KIND, "get_image_location", ctx, &image)?;
        self.core().authorize(KIND, "delete_image_location", ctx, &image)?;
        let Some(store) = self.stores().find(store_id) else {
            return Err(Error::conflict(format!("The selected store {store_id} is not available on this node.")));
        };
        let (image_id, project, name, cause) = (image.id.clone(), ctx.project_id().to_string(), store_id.to_string(), ctx.clone());
        let taken = self.core().store.write(move |tx| {
            let now = db::image_fetch(tx, &image_id, &project)?.ok_or_else(|| not_found(&image_id))?;
            if now.status != Status::Active {
                return Err(Error::conflict("It's not allowed to remove image data from store if image status is not 'active'"));
            }
            if !now.locations.iter().any(|location| location.store == name) {
                return Err(Error::new(Kind::NotFound, format!("Image {image_id} is not stored in store {name}.")));
            }
            if now.locations.iter().all(|location| location.store == name) {
                return Err(Error::forbidden("The image is in no other store: delete the image instead of its only content."));
            }
            db::location_delete(tx, &image_id, &name)?;
            record(tx, &cause, "image.update", &now)?;
            Ok(now)
        });
        let Some(sha256) = taken.await?.sha256 else { return Ok(()) };
        if let Err(error) = self.content_release(store, store.key(id, &sha256)).await {
            tracing::warn!(image = id, store = store_id, "content could not be removed: {}", error.chain());
        }
        Ok(())
    }

    pub async fn image_deactivate(&self, ctx: &Context, id: &str) -> Result<()> {
        let image = self.image_for(ctx, id, "deactivate").await?;
        self.image_turn(ctx, image, "deactivate", Status::Active, Status::Deactivated).await
    }

    pub async fn image_reactivate(&self, ctx: &Context, id: &str) -> Result<()> {
        let image = self.image_for(ctx, id, "reactivate").await?;
        self.image_turn(ctx, image, "reactivate", Status::Deactivated, Status::Active).await
    }

    async fn image_turn(&self, ctx: &Context, mut image: Image, verb: &str, from: Status, to: Status) -> Result<()> {
        if image.status == to {
            return Ok(());
        }
        if image.status != from {
            return Err(Error::forbidden(format!("Not allowed to {verb} image in status '{}'", image.status.as_str())));
        }
        image.status = to;
        self.image_store(ctx, image).await.map(|_| ())
    }

    pub async fn tag_add(&self, ctx: &Context, id: &str, tag: &str) -> Result<()> {
        attributes::check_tag(tag)?;
        let mut image = self.image_for(ctx, id, "modify_image").await?;
        if image.tags.insert(tag.to_string()) {
            check_quotas(&image)?;
            self.image_store(ctx, image).await?;
        }
        Ok(())
    }

    pub async fn tag_remove(&self, ctx: &Context, id: &str, tag: &str) -> Result<()> {
        let mut image = self.image_for(ctx, id, "modify_image").await?;
        if !image.tags.remove(tag) {
            return Err(Error::new(Kind::NotFound, format!("Image {id} has no tag '{tag}'.")));
        }
        self.image_store(ctx, image).await.map(|_| ())
    }
}

fn check_quotas(image: &Image) -> Result<()> {
    let over = |what: &str, n: usize, max: usize| {
        let text = format!("The limit has been exceeded on the number of allowed image {what}. Attempted: {n}, Maximum: {max}");
        Error::new(Kind::TooLarge, text)
    };
    let properties = image.properties.keys().filter(|name| !attributes::is_reserved(name)).count();
    if properties > MAX_PROPERTIES {
        return Err(over("properties", properties, MAX_PROPERTIES));
    }
    if image.tags.len() > MAX_TAGS {
        return Err(over("tags", image.tags.len(), MAX_TAGS));
    }
    Ok(())
}
