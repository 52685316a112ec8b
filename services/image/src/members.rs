//! Sharing: which projects see an image of visibility `shared`, and what they say to it.

use base::{Context, Error, Kind, Result, Timestamp};
use events::Event;
use serde_json::json;

use crate::db::members as db;
use crate::images::not_found;
use crate::model::{Image, Member, Visibility};
use crate::{Images, KIND};

const MAX_MEMBERS: u64 = 128;
const STATUSES: [&str; 3] = ["pending", "accepted", "rejected"];

fn member_not_found(image_id: &str, member: &str) -> Error {
    Error::new(Kind::NotFound, format!("{member} not found in the member list of the image {image_id}."))
}

fn record(tx: &store::Tx, ctx: &Context, kind: &str, member: &Member) -> Result<()> {
    let payload = json!({
        "image_id": member.image_id,
        "member_id": member.member,
        "status": member.status,
        "created_at": member.created_at.iso(),
        "updated_at": member.updated_at.iso(),
        "deleted": kind.ends_with("delete"),
        "deleted_at": null,
    });
    events::record(tx, &Event::new(kind, &member.image_id, ctx).payload(payload))?;
    Ok(())
}

impl Images {
    /// The image, when it can have members and `rule` lets the caller.
    async fn shared_image(&self, ctx: &Context, id: &str, rule: &str) -> Result<Image> {
        let image = self.image_show(ctx, id).await?;
        if image.visibility != Visibility::Shared {
            return Err(Error::forbidden("Only shared images have members."));
        }
        self.core().authorize(KIND, rule, ctx, &image)?;
        Ok(image)
    }

    /// The only member a caller may see: his own project, unless the image is his.
    fn only_member<'a>(&self, ctx: &'a Context, image: &Image) -> Option<&'a str> {
        let owner = self.is_admin(ctx) || image.owner.as_deref() == Some(ctx.project_id());
        (!owner).then(|| ctx.project_id())
    }

    pub async fn member_list(&self, ctx: &Context, id: &str) -> Result<Vec<Member>> {
        let image = self.shared_image(ctx, id, "get_members").await?;
        if !self.core().policy.check(KIND, "get_member", ctx, &image) {
            return Ok(Vec::new());
        }
        let only = self.only_member(ctx, &image);
        self.core().store.read(|tx| db::member_list(tx, id, only)).await
    }

    pub async fn member_show(&self, ctx: &Context, id: &str, member: &str) -> Result<Member> {
        // That an image cannot have members is told as the member not being there.
        let image = self.shared_image(ctx, id, "get_member").await.map_err(|error| match error.kind() {
            Kind::Forbidden => member_not_found(id, member),
            _ => error,
        })?;
        self.member_of(ctx, &image, member).await
    }

    async fn member_of(&self, ctx: &Context, image: &Image, member: &str) -> Result<Member> {
        if self.only_member(ctx, image).is_some_and(|only| only != member) {
            return Err(member_not_found(&image.id, member));
        }
        let found = self.core().store.read(|tx| db::member_fetch(tx, &image.id, member)).await?;
        found.ok_or_else(|| member_not_found(&image.id, member))
    }

    pub async fn member_create(&self, ctx: &Context, id: &str, project: &str) -> Result<Member> {
        let image = self.shared_image(ctx, id, "add_member").await?;
        let now = Timestamp::now();
        let member = Member { image_id: image.id, member: project.to_string(), status: "pending".into(), created_at: now, updated_at: now };
        let (stored, cause) = (member.clone(), ctx.clone());
        let written = self.core().store.write(move |tx| {
            if crate::db::images::image_fetch(tx, &stored.image_id, "")?.is_none() {
                return Err(not_found(&stored.image_id));
            }
            let count = db::member_count(tx, &stored.image_id)?;
            db::member_insert(tx, &stored)?;
            if count >= MAX_MEMBERS {
                let text = "The limit has been exceeded on the number of allowed image members for this image.";
                return Err(Error::new(Kind::TooLarge, format!("{text} Attempted: {}, Maximum: {MAX_MEMBERS}", count + 1)));
            }
            record(tx, &cause, "image.member.create", &stored)
        });
        written.await.map_err(|error| match error.kind() {
            Kind::Exists => Error::conflict(format!("Member {project} is duplicated for image {id}")).caused_by(error),
            _ => error,
        })?;
        Ok(member)
    }

    pub async fn member_update(&self, ctx: &Context, id: &str, project: &str, status: &str) -> Result<Member> {
        let image = self.shared_image(ctx, id, "get_member").await?;
        let mut member = self.member_of(ctx, &image, project).await?;
        self.core().authorize(KIND, "modify_member", ctx, &image)?;
        if !STATUSES.contains(&status) {
            return Err(Error::invalid("Incorrect request: Status must be \"pending\", \"accepted\" or \"rejected\"."));
        }
        member.status = status.to_string();
        member.updated_at = Timestamp::now();
        let (stored, cause) = (member.clone(), ctx.clone());
        let written = self.core().store.write(move |tx| {
            if !db::member_update(tx, &stored.image_id, &stored.member, &stored.status, stored.updated_at)? {
                return Err(member_not_found(&stored.image_id, &stored.member));
            }
            record(tx, &cause, "image.member.update", &stored)
        });
        written.await?;
        Ok(member)
    }

    pub async fn member_delete(&self, ctx: &Context, id: &str, project: &str) -> Result<()> {
        let image = self.shared_image(ctx, id, "get_member").await?;
        let member = self.member_of(ctx, &image, project).await?;
        self.core().authorize(KIND, "delete_member", ctx, &image)?;
        let cause = ctx.clone();
        let written = self.core().store.write(move |tx| {
            if !db::member_delete(tx, &member.image_id, &member.member)? {
                return Err(member_not_found(&member.image_id, &member.member));
            }
            record(tx, &cause, "image.member.delete", &member)
        });
        written.await
    }
}
