//! Policy blobs: texts that other services once fetched their rules from. Nothing here reads what is in them.

use base::{Context, Result};
use http_api::Request;
use serde_json::{Value, json};
use store::{Row, Select, Tx, params};

use crate::list::Ask;
use crate::wire::{self, Object};
use crate::{Identity, endpoint_policy, fault, note};

#[derive(Clone, Debug)]
pub struct PolicyBlob {
    pub id: String,
    pub kind: String,
    pub blob: String,
    pub extra: Object,
}

const COLUMNS: &str = "id, type, blob_text, extra";

fn map(row: &Row) -> Result<PolicyBlob> {
    Ok(PolicyBlob { id: row.text(0)?, kind: row.text(1)?, blob: row.text(2)?, extra: row.json(3)? })
}

impl PolicyBlob {
    pub fn view(&self, req: &Request) -> Value {
        let mut view = self.extra.clone();
        view.insert("id".into(), json!(self.id));
        view.insert("type".into(), json!(self.kind));
        view.insert("blob".into(), json!(self.blob));
        view.insert("links".into(), json!({ "self": format!("{}/v3/policies/{}", req.base_url, self.id) }));
        Value::Object(view)
    }
}

/// What a request wants to set.
pub struct PolicyBlobChange {
    pub kind: Option<String>,
    pub blob: Option<String>,
    pub extra: Object,
}

impl PolicyBlobChange {
    pub fn read(mut map: Object) -> Result<PolicyBlobChange> {
        let mut take = wire::Take { map: &mut map, what: "policy" };
        let (kind, blob) = (take.text("type", 255)?, take.text("blob", usize::MAX)?);
        map.remove("links");
        Ok(PolicyBlobChange { kind, blob, extra: map })
    }

    /// All that a new policy needs.
    pub fn whole(self) -> Result<PolicyBlob> {
        let required = |name: &str| fault::field("policy", format!("'{name}' is a required property"));
        let mut extra = self.extra;
        extra.remove("id");
        Ok(PolicyBlob {
            id: base::id::hex(),
            blob: self.blob.ok_or_else(|| required("blob"))?,
            kind: self.kind.ok_or_else(|| required("type"))?,
            extra,
        })
    }
}

pub fn policy_fetch_in(tx: &Tx, id: &str) -> Result<PolicyBlob> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM policy_blob WHERE id = ?1"), params![id], map)?
        .ok_or_else(|| fault::not_found("policy", id))
}

impl Identity {
    pub(crate) async fn policy_fetch(&self, id: &str) -> Result<PolicyBlob> {
        self.0.store.read(|tx| policy_fetch_in(tx, id)).await
    }

    pub(crate) async fn policy_list(&self, ask: &Ask) -> Result<(Vec<PolicyBlob>, bool)> {
        let select = Select::new(format!("SELECT {COLUMNS} FROM policy_blob"));
        self.0.store.read(|tx| ask.fetch(tx, select, "policy_blob", map)).await
    }

    pub(crate) async fn policy_create(&self, ctx: &Context, policy: PolicyBlob) -> Result<PolicyBlob> {
        let ctx = ctx.clone();
        self.add(move |tx| {
            tx.execute(
                &format!("INSERT INTO policy_blob ({COLUMNS}) VALUES (?1, ?2, ?3, ?4)"),
                params![&policy.id, &policy.kind, &policy.blob, store::Value::json(&policy.extra)?],
            )?;
            note(tx, &ctx, "policy.created", &policy.id)?;
            Ok(policy)
        })
        .await
    }

    pub(crate) async fn policy_update(&self, ctx: &Context, id: &str, change: PolicyBlobChange) -> Result<PolicyBlob> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.add(move |tx| {
            let mut policy = policy_fetch_in(tx, &id)?;
            if let Some(kind) = change.kind {
                policy.kind = kind;
            }
            if let Some(blob) = change.blob {
                policy.blob = blob;
            }
            policy.extra.extend(change.extra);
            tx.execute(
                "UPDATE policy_blob SET type = ?2, blob_text = ?3, extra = ?4 WHERE id = ?1",
                params![&id, &policy.kind, &policy.blob, store::Value::json(&policy.extra)?],
            )?;
            note(tx, &ctx, "policy.updated", &id)?;
            Ok(policy)
        })
        .await
    }

    pub(crate) async fn policy_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.add(move |tx| {
            if tx.execute("DELETE FROM policy_blob WHERE id = ?1", params![&id])? == 0 {
                return Err(fault::not_found("policy", &id));
            }
            endpoint_policy::associations_remove_in(tx, "policy_id", &id)?;
            note(tx, &ctx, "policy.deleted", &id)
        })
        .await
    }
}
