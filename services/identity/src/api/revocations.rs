//! `/v3/OS-REVOKE/events`, and what is left of PKI tokens: `OS-SIMPLE-CERT` and `OS-PKI`.

use base::{Error, Kind, Result, Timestamp};
use http_api::{Request, Response};
use serde_json::{Value, json};
use store::params;

use super::{R, answer};
use crate::Identity;

pub fn routes(routes: R) -> R {
    routes
        .get("/v3/OS-REVOKE/events", index)
        .public("GET", "/v3/OS-SIMPLE-CERT/ca", gone)
        .public("GET", "/v3/OS-SIMPLE-CERT/certificates", gone)
        .public("GET", "/v3/auth/tokens/OS-PKI/revoked", gone)
}

/// Revocations that may still matter, oldest first; `since`: those from an instant on.
async fn index(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_revoke_events", &req.ctx, &Value::Null)?;
    let since = match req.query.get("since").filter(|text| !text.is_empty()) {
        None => Timestamp(0),
        Some(text) => Timestamp::parse(text).ok_or_else(|| Error::invalid(format!("invalidate date format {text}")))?,
    };
    let sql = "SELECT kind, subject, issued_before FROM revocation WHERE issued_before >= ?1 ORDER BY issued_before, kind, subject";
    let events = identity.0.store.read(|tx| {
        tx.query(sql, params![since], |row| {
            let (kind, at) = (row.text(0)?, row.time(2)?.iso_micros_z());
            let mut event = json!({ "issued_before": at, "revoked_at": at });
            event[format!("{kind}_id")] = json!(row.text(1)?);
            Ok(event)
        })
    });
    let links = json!({ "next": null, "self": format!("{}/v3/OS-REVOKE/events", req.base_url), "previous": null });
    answer(200, &json!({ "events": events.await?, "links": links }))
}

/// There are no PKI tokens, here as upstream.
async fn gone(_: Identity, _: Request) -> Result<Response> {
    Err(Error::new(Kind::Gone, "This API is no longer available due to the removal of support for PKI tokens."))
}
