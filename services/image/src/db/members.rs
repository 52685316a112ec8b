//! Who an image is shared with.

use base::{Result, Timestamp};
use store::{Dir, Row, Select, Tx, params};

use crate::model::Member;

const COLUMNS: &str = "SELECT image_id, member, status, created_at, updated_at FROM image_member";

fn read(row: &Row) -> Result<Member> {
    Ok(Member { image_id: row.text(0)?, member: row.text(1)?, status: row.text(2)?, created_at: row.time(3)?, updated_at: row.time(4)? })
}

pub fn member_insert(tx: &Tx, member: &Member) -> Result<()> {
    tx.execute(
        "INSERT INTO image_member (image_id, member, status, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![member.image_id, member.member, member.status, member.created_at, member.updated_at],
    )?;
    Ok(())
}

pub fn member_fetch(tx: &Tx, image_id: &str, member: &str) -> Result<Option<Member>> {
    Ok(Select::new(COLUMNS).eq("image_id", image_id).eq("member", member).limit(1).fetch(tx, read)?.pop())
}

/// All members, or the one that is `only`.
pub fn member_list(tx: &Tx, image_id: &str, only: Option<&str>) -> Result<Vec<Member>> {
    let order = [("created_at", Dir::Asc), ("member", Dir::Asc)];
    Select::new(COLUMNS).eq("image_id", image_id).opt_eq("member", only).order(&order).fetch(tx, read)
}

pub fn member_count(tx: &Tx, image_id: &str) -> Result<u64> {
    tx.query_one("SELECT COUNT(*) FROM image_member WHERE image_id = ?1", params![image_id], |row| row.count(0))
}

/// False when there is no such member.
pub fn member_update(tx: &Tx, image_id: &str, member: &str, status: &str, now: Timestamp) -> Result<bool> {
    let changed = tx.execute(
        "UPDATE image_member SET status = ?3, updated_at = ?4 WHERE image_id = ?1 AND member = ?2",
        params![image_id, member, status, now],
    )?;
    Ok(changed > 0)
}

pub fn member_delete(tx: &Tx, image_id: &str, member: &str) -> Result<bool> {
    Ok(tx.execute("DELETE FROM image_member WHERE image_id = ?1 AND member = ?2", params![image_id, member])? > 0)
}
