//! Tags of servers.

use std::collections::HashMap;

use base::Result;
use store::{Select, Tx, params};

pub fn tag_list_in(tx: &Tx, server_id: &str) -> Result<Vec<String>> {
    tx.query("SELECT tag FROM server_tag WHERE server_id = ?1 ORDER BY tag", params![server_id], |r| r.text(0))
}

/// Tags of many servers at once.
pub fn tags_of_in(tx: &Tx, server_ids: &[String]) -> Result<HashMap<String, Vec<String>>> {
    let mut tags: HashMap<String, Vec<String>> = HashMap::new();
    let rows = Select::new("SELECT server_id, tag FROM server_tag")
        .in_list("server_id", server_ids)
        .order(&[("server_id", store::Dir::Asc), ("tag", store::Dir::Asc)])
        .fetch(tx, |r| Ok((r.text(0)?, r.text(1)?)))?;
    for (id, tag) in rows {
        tags.entry(id).or_default().push(tag);
    }
    Ok(tags)
}

/// Whether it was new.
pub fn tag_add_in(tx: &Tx, server_id: &str, tag: &str) -> Result<bool> {
    let sql = "INSERT INTO server_tag (server_id, tag) VALUES (?1, ?2) ON CONFLICT (server_id, tag) DO NOTHING";
    Ok(tx.execute(sql, params![server_id, tag])? == 1)
}

/// Whether it was there.
pub fn tag_delete_in(tx: &Tx, server_id: &str, tag: &str) -> Result<bool> {
    Ok(tx.execute("DELETE FROM server_tag WHERE server_id = ?1 AND tag = ?2", params![server_id, tag])? == 1)
}

pub fn tags_clear_in(tx: &Tx, server_id: &str) -> Result<()> {
    tx.execute("DELETE FROM server_tag WHERE server_id = ?1", params![server_id])?;
    Ok(())
}
