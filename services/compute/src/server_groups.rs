//! Server groups: servers that shall be on the same host, or on different ones. The scheduler keeps to them, see
//! [`crate::scheduler::group_allows_in`].

use base::{Context, Error, Kind, Result, Timestamp};
use serde_json::{Value, json};
use store::Tx;

use crate::Compute;
use crate::db::server_groups::{self as db, ServerGroup};
use crate::quotas;

/// A group with the members that exist.
#[derive(Clone, Debug)]
pub struct GroupWithMembers {
    pub group: ServerGroup,
    pub members: Vec<String>,
}

/// What a group is made of.
#[derive(Clone, Debug)]
pub struct ServerGroupCreate {
    pub name: String,
    pub policy: String,
    pub rules: Value,
}

fn missing(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("Instance group {id} could not be found."))
}

fn visible_in(tx: &Tx, ctx: &Context, id: &str) -> Result<ServerGroup> {
    let seen = |group: &ServerGroup| ctx.is_admin() || group.project_id == ctx.project_id();
    db::server_group_fetch_in(tx, id)?.filter(seen).ok_or_else(|| missing(id))
}

fn with_members_in(tx: &Tx, groups: Vec<ServerGroup>) -> Result<Vec<GroupWithMembers>> {
    let mut members = db::members_in(tx, &groups)?;
    Ok(groups.into_iter().map(|group| GroupWithMembers { members: members.remove(&group.id).unwrap_or_default(), group }).collect())
}

/// Records `servergroup.<what>`.
pub(crate) fn event_in(tx: &Tx, what: &str, group: &ServerGroup, members: &[String], ctx: &Context) -> Result<()> {
    let payload = json!({
        "server_group_id": group.id,
        "name": group.name,
        "policies": [group.policy],
        "policy": group.policy,
        "rules": group.rules,
        "instance_uuids": members,
        "project_id": group.project_id,
        "user_id": group.user_id,
    });
    let event = events::Event::new(format!("servergroup.{what}"), &group.id, ctx).project(&group.project_id).payload(payload);
    events::record(tx, &event).map(drop)
}

impl Compute {
    pub async fn server_group_list(&self, project_id: Option<&str>, offset: usize, limit: usize) -> Result<Vec<GroupWithMembers>> {
        self.core
            .store
            .read(|tx| {
                let groups = db::server_group_list_in(tx, project_id)?;
                with_members_in(tx, groups.into_iter().skip(offset).take(limit).collect())
            })
            .await
    }

    pub async fn server_group_show(&self, ctx: &Context, id: &str) -> Result<GroupWithMembers> {
        self.core
            .store
            .read(|tx| {
                let mut found = with_members_in(tx, vec![visible_in(tx, ctx, id)?])?;
                found.pop().ok_or_else(|| missing(id))
            })
            .await
    }

    pub async fn server_group_create(&self, ctx: &Context, wish: ServerGroupCreate) -> Result<ServerGroup> {
        let ctx = ctx.clone();
        self.core
            .store
            .write(move |tx| {
                let (project, user) = (ctx.project_id(), ctx.user_id.as_str());
                tx.lock(&format!("compute/quota/{project}"))?;
                for (limit, used) in [
                    (quotas::limit_in(tx, project, "server_groups")?, db::server_group_count_in(tx, project, None)?),
                    (quotas::user_limit_in(tx, project, user, "server_groups")?, db::server_group_count_in(tx, project, Some(user))?),
                ] {
                    if limit >= 0 && used >= limit {
                        return Err(Error::quota("Quota exceeded, too many server groups."));
                    }
                }
                let group = ServerGroup {
                    id: base::id::uuid(),
                    name: wish.name,
                    project_id: project.to_string(),
                    user_id: user.to_string(),
                    policy: wish.policy,
                    rules: wish.rules,
                    created_at: Timestamp::now(),
                };
                db::server_group_insert_in(tx, &group)?;
                event_in(tx, "create", &group, &[], &ctx)?;
                Ok(group)
            })
            .await
    }

    pub async fn server_group_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.core
            .store
            .write(move |tx| {
                let group = visible_in(tx, &ctx, &id)?;
                if !db::server_group_delete_in(tx, &id)? {
                    return Err(missing(&id));
                }
                task::nudge_in(tx, crate::sync::group_alarms::NAME);
                event_in(tx, "delete", &group, &[], &ctx)
            })
            .await
    }
}
