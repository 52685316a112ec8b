//! Rows of servers' volumes.

use std::collections::HashMap;

use base::Result;
use serde::{Deserialize, Serialize};
use store::{Dir, Row, Select, Tx, Value, params};

#[derive(Clone, Debug, PartialEq)]
pub struct ServerVolume {
    pub id: String,
    pub server_id: String,
    pub place: i64,
    pub volume_id: Option<String>,
    pub attachment_id: Option<String>,
    pub state: State,
    pub device: String,
    pub boot_index: Option<i64>,
    pub delete_on_termination: bool,
    pub tag: Option<String>,
    pub plan: Plan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Shall be there: part of the guest's document as soon as there is a volume.
    Planned,
    /// As that, and on its way to the server's host: no part of the document before it is there.
    Coming,
    Attached,
    /// Shall be gone: no part of the document.
    Detaching,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            State::Planned => "planned",
            State::Coming => "coming",
            State::Attached => "attached",
            State::Detaching => "detaching",
        }
    }
}

/// What a volume that is made for the server is made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    pub image: Option<String>,
    pub snapshot: Option<String>,
    /// GiB.
    pub size: Option<i64>,
    pub volume_type: Option<String>,
    /// Made for the server: taken back when the server cannot be built.
    pub ours: bool,
}

const COLUMNS: &str = "id, server_id, place, volume_id, attachment_id, state, device, boot_index, delete_on_termination, tag, doc";

fn read(r: &Row) -> Result<ServerVolume> {
    Ok(ServerVolume {
        id: r.text(0)?,
        server_id: r.text(1)?,
        place: r.int(2)?,
        volume_id: r.opt_text(3)?,
        attachment_id: r.opt_text(4)?,
        state: match r.text(5)?.as_str() {
            "attached" => State::Attached,
            "coming" => State::Coming,
            "detaching" => State::Detaching,
            _ => State::Planned,
        },
        device: r.text(6)?,
        boot_index: r.opt_int(7)?,
        delete_on_termination: r.flag(8)?,
        tag: r.opt_text(9)?,
        plan: r.json(10)?,
    })
}

/// In the order of the guest's disks.
pub fn volumes_of_in(tx: &Tx, server_id: &str) -> Result<Vec<ServerVolume>> {
    tx.query(&format!("SELECT {COLUMNS} FROM server_volume WHERE server_id = ?1 ORDER BY place, id"), params![server_id], read)
}

/// Of several servers, by server.
pub fn volumes_of_all_in(tx: &Tx, servers: &[String]) -> Result<HashMap<String, Vec<ServerVolume>>> {
    let select = Select::new(format!("SELECT {COLUMNS} FROM server_volume")).in_list("server_id", servers);
    let mut all: HashMap<String, Vec<ServerVolume>> = HashMap::new();
    for volume in select.order(&[("place", Dir::Asc), ("id", Dir::Asc)]).fetch(tx, read)? {
        all.entry(volume.server_id.clone()).or_default().push(volume);
    }
    Ok(all)
}

pub fn volume_put_in(tx: &Tx, v: &ServerVolume) -> Result<()> {
    tx.execute(
        "INSERT INTO server_volume (id, server_id, place, volume_id, attachment_id, state, device, boot_index, delete_on_termination, tag, \
         doc) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (id) DO UPDATE SET volume_id = excluded.volume_id, \
         attachment_id = excluded.attachment_id, state = excluded.state, device = excluded.device, \
         delete_on_termination = excluded.delete_on_termination, tag = excluded.tag, doc = excluded.doc",
        params![
            v.id,
            v.server_id,
            v.place,
            v.volume_id,
            v.attachment_id,
            v.state.as_str(),
            v.device,
            v.boot_index,
            v.delete_on_termination,
            v.tag,
            Value::json(&v.plan)?
        ],
    )?;
    Ok(())
}

pub fn volume_remove_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM server_volume WHERE id = ?1", params![id]).map(drop)
}
