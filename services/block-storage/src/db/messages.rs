//! Rows of messages to users.

use base::{Error, Result, Timestamp};
use store::{Row, Tx, params};

#[derive(Clone, Debug)]
pub struct Message {
    pub id: String,
    pub project_id: String,
    pub request_id: String,
    pub action: String,
    pub detail: String,
    pub event_id: String,
    pub level: String,
    pub resource_type: String,
    pub resource_uuid: String,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}

pub const COLUMNS: &str = "m.id, m.project_id, m.request_id, m.action, m.detail, m.event_id, m.message_level, m.resource_type, \
     m.resource_uuid, m.created_at, m.expires_at";

pub fn not_found(id: &str) -> Error {
    Error::new(base::Kind::NotFound, format!("Message {id} could not be found."))
}

pub fn read(r: &Row) -> Result<Message> {
    Ok(Message {
        id: r.text(0)?,
        project_id: r.text(1)?,
        request_id: r.text(2)?,
        action: r.text(3)?,
        detail: r.text(4)?,
        event_id: r.text(5)?,
        level: r.text(6)?,
        resource_type: r.text(7)?,
        resource_uuid: r.text(8)?,
        created_at: r.time(9)?,
        expires_at: r.time(10)?,
    })
}

pub fn message_fetch_in(tx: &Tx, id: &str) -> Result<Option<Message>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM volume_message m WHERE m.id = ?1"), params![id], read)
}

/// Stores a message, and forgets those whose time has passed.
pub fn message_insert_in(tx: &Tx, m: &Message) -> Result<()> {
    tx.execute("DELETE FROM volume_message WHERE expires_at < ?1", params![m.created_at])?;
    tx.execute(
        "INSERT INTO volume_message (id, project_id, request_id, action, detail, event_id, message_level, resource_type, resource_uuid, \
         created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            m.id,
            m.project_id,
            m.request_id,
            m.action,
            m.detail,
            m.event_id,
            m.level,
            m.resource_type,
            m.resource_uuid,
            m.created_at,
            m.expires_at
        ],
    )
    .map(drop)
}

pub fn message_delete_in(tx: &Tx, id: &str) -> Result<bool> {
    Ok(tx.execute("DELETE FROM volume_message WHERE id = ?1", params![id])? > 0)
}
