//! Rows of hosts and of tokens to join with.

use base::{Result, Timestamp};
use store::{Row, Tx, params};

use crate::enable::{Enabling, Upkeep};
use crate::heartbeat::Health;
use crate::parameters::OnLoss;

/// A host that joined, or is to.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// Also the id it greets with, of its hypervisor and of its provider of resources.
    pub uuid: String,
    /// The integer id by which StarlingX's clients name it.
    pub number: i64,
    pub hostname: String,
    /// `controller` or `worker`.
    pub personality: String,
    /// Comma list.
    pub subfunctions: String,
    /// Where it was last reached.
    pub mgmt_ip: String,
    pub locked: bool,
    pub connected: bool,
    /// False until it has joined.
    pub provisioned: bool,
    pub deleted: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub health: Health,
    /// It has a guard: it answers pulses and keeps its lease.
    pub guarded: bool,
    /// Its guard has confirmed once that it goes by a lease.
    pub leased: bool,
    /// What it had may be running elsewhere: it gets no lease before it has been told.
    pub fenced: bool,
    /// What is being done with it, in StarlingX's words; empty: nothing.
    pub task: String,
    /// Why what was last to be done with it was not.
    pub progress: String,
    /// How its BMC is spoken to: `none`, `dynamic`, `ipmi`, `redfish`.
    pub bm_type: String,
    pub bm_ip: String,
    pub bm_username: String,
    /// The password, sealed ([`crate::bmc`]).
    pub bm_sealed: String,
    /// Its BMC says that it is switched off.
    pub powered_off: bool,
    /// After a boot it starts nothing that may be elsewhere before it was told.
    pub waits: bool,
    /// By what its monitors see.
    pub degraded: bool,
    pub failed: bool,
    /// A sensor of its machine is alarming.
    pub hot: bool,
    pub upkeep: Upkeep,
}

impl Host {
    /// A host nobody has heard of yet.
    pub fn new(hostname: &str, personality: &str) -> Host {
        let now = Timestamp::now();
        Host {
            uuid: base::id::uuid(),
            number: 0,
            hostname: hostname.into(),
            personality: personality.into(),
            subfunctions: if personality == "controller" { "controller,worker".into() } else { personality.into() },
            mgmt_ip: String::new(),
            locked: false,
            connected: false,
            provisioned: false,
            deleted: false,
            created_at: now,
            updated_at: now,
            health: Health::Well,
            guarded: false,
            leased: false,
            fenced: false,
            task: String::new(),
            progress: String::new(),
            bm_type: "none".into(),
            bm_ip: String::new(),
            bm_username: String::new(),
            bm_sealed: String::new(),
            powered_off: false,
            waits: false,
            degraded: false,
            failed: false,
            hot: false,
            upkeep: Upkeep::default(),
        }
    }

    pub fn administrative(&self) -> &'static str {
        if self.locked { "locked" } else { "unlocked" }
    }
    pub fn operational(&self) -> &'static str {
        let there = self.is_waited_for() || (self.connected && !self.is_lost());
        let through = self.upkeep.enabling == Enabling::Done || self.is_kept();
        let enabled = there && !self.locked && (!self.failed || self.is_controller()) && through;
        if enabled { "enabled" } else { "disabled" }
    }
    /// Whether it may have guests, which a controller is there without.
    pub fn subfunction_operational(&self) -> &'static str {
        if self.is_controller() && self.failed { "disabled" } else { self.operational() }
    }
    pub fn subfunction_availability(&self) -> &'static str {
        if self.operational() == "enabled" && self.subfunction_operational() == "disabled" { "failed" } else { self.availability() }
    }
    fn is_controller(&self) -> bool {
        self.personality == "controller"
    }
    pub fn availability(&self) -> &'static str {
        match self {
            Host { powered_off: true, connected: false, .. } => "power-off",
            host if host.is_waited_for() && host.operational() == "enabled" => "degraded",
            Host { connected: false, .. } => "offline",
            host if host.is_lost() => "failed",
            Host { locked: true, .. } => "online",
            // There is no other controller: this one is degraded only.
            host if host.failed && !host.is_controller() => "failed",
            host if host.is_kept() => "degraded",
            host if host.upkeep.enabling == Enabling::Failed => "failed",
            host if host.upkeep.enabling != Enabling::Done => "intest",
            Host { degraded: true, .. } | Host { failed: true, .. } | Host { hot: true, .. } => "degraded",
            host if host.upkeep.unwell > 0 || host.is_degraded_by_heartbeat() => "degraded",
            _ => "available",
        }
    }
    /// It does not answer, and neither does most of the site: the network is more likely to be at fault than the host.
    pub fn is_waited_for(&self) -> bool {
        self.upkeep.waiting && self.is_silent() && !self.fenced
    }
    /// It does not answer, and that takes it out of service.
    pub fn is_silent(&self) -> bool {
        self.health == Health::Lost && self.upkeep.on_loss == OnLoss::Fail
    }
    fn is_degraded_by_heartbeat(&self) -> bool {
        let ways = self.upkeep.ways.into_iter().flatten();
        self.upkeep.on_loss.degrades() && ways.chain([self.health]).any(|health| health != Health::Well)
    }
    /// The controller's own host, which did not get into service: it stays there all the same, as no other could take over.
    pub fn is_kept(&self) -> bool {
        self.is_controller() && self.upkeep.enabling == Enabling::Failed
    }
    /// It does not answer, or what it had may still be on its way elsewhere.
    pub fn is_lost(&self) -> bool {
        self.is_silent() || self.fenced
    }
}

const COLUMNS: &str = "uuid, number, hostname, personality, subfunctions, mgmt_ip, administrative, connected, provisioned, deleted, created_at, updated_at, health, \
     guarded, leased, fenced, task, progress, bm_type, bm_ip, bm_username, bm_sealed, powered_off, waits, degraded, failed, hot, upkeep";

fn host_row(r: &Row) -> Result<Host> {
    Ok(Host {
        uuid: r.text(0)?,
        number: r.int(1)?,
        hostname: r.text(2)?,
        personality: r.text(3)?,
        subfunctions: r.text(4)?,
        mgmt_ip: r.text(5)?,
        locked: r.text(6)? == "locked",
        connected: r.flag(7)?,
        provisioned: r.flag(8)?,
        deleted: r.flag(9)?,
        created_at: r.time(10)?,
        updated_at: r.time(11)?,
        health: Health::parse(&r.text(12)?),
        guarded: r.flag(13)?,
        leased: r.flag(14)?,
        fenced: r.flag(15)?,
        task: r.text(16)?,
        progress: r.text(17)?,
        bm_type: r.text(18)?,
        bm_ip: r.text(19)?,
        bm_username: r.text(20)?,
        bm_sealed: r.text(21)?,
        powered_off: r.flag(22)?,
        waits: r.flag(23)?,
        degraded: r.flag(24)?,
        failed: r.flag(25)?,
        hot: r.flag(26)?,
        upkeep: r.json(27)?,
    })
}

pub fn host_list_in(tx: &Tx) -> Result<Vec<Host>> {
    tx.query(&format!("SELECT {COLUMNS} FROM host WHERE deleted = 0 ORDER BY number"), &[], host_row)
}

/// Deleted ones too.
pub fn host_fetch_in(tx: &Tx, uuid: &str) -> Result<Option<Host>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM host WHERE uuid = ?1"), params![uuid], host_row)
}

pub fn host_by_name_in(tx: &Tx, hostname: &str) -> Result<Option<Host>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM host WHERE hostname = ?1 AND deleted = 0"), params![hostname], host_row)
}

/// Writes a host whole; a new one gets its number.
pub fn host_put_in(tx: &Tx, host: &mut Host) -> Result<()> {
    if host.number == 0 {
        host.number = tx.query_one("SELECT COALESCE(MAX(number), 0) + 1 FROM host", &[], |r| r.int(0))?;
    }
    host.updated_at = Timestamp::now();
    tx.execute(
        &format!(
            "INSERT INTO host ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, \
             ?23, ?24, ?25, ?26, ?27, ?28) ON CONFLICT (uuid) DO UPDATE SET \
             hostname = excluded.hostname, personality = excluded.personality, subfunctions = excluded.subfunctions, mgmt_ip = excluded.mgmt_ip, \
             administrative = excluded.administrative, connected = excluded.connected, provisioned = excluded.provisioned, \
             deleted = excluded.deleted, updated_at = excluded.updated_at, health = excluded.health, guarded = excluded.guarded, \
             leased = excluded.leased, fenced = excluded.fenced, task = excluded.task, progress = excluded.progress, \
             bm_type = excluded.bm_type, bm_ip = excluded.bm_ip, bm_username = excluded.bm_username, bm_sealed = excluded.bm_sealed, \
             powered_off = excluded.powered_off, waits = excluded.waits, degraded = excluded.degraded, \
             failed = excluded.failed, hot = excluded.hot, upkeep = excluded.upkeep"
        ),
        params![
            &host.uuid,
            host.number,
            &host.hostname,
            &host.personality,
            &host.subfunctions,
            &host.mgmt_ip,
            host.administrative(),
            host.connected,
            host.provisioned,
            host.deleted,
            host.created_at,
            host.updated_at,
            host.health.word(),
            host.guarded,
            host.leased,
            host.fenced,
            &host.task,
            &host.progress,
            &host.bm_type,
            &host.bm_ip,
            &host.bm_username,
            &host.bm_sealed,
            host.powered_off,
            host.waits,
            host.degraded,
            host.failed,
            host.hot,
            store::Value::json(&host.upkeep)?
        ],
    )?;
    Ok(())
}

pub fn all_disconnected_in(tx: &Tx) -> Result<()> {
    tx.execute("UPDATE host SET connected = 0 WHERE connected = 1", &[]).map(drop)
}

/// A token to join with; its secret is known to who made it only.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub id: String,
    pub secret_hash: String,
    /// The only host it is good for; empty: any.
    pub hostname: String,
    pub expires_at: Timestamp,
    pub created_at: Timestamp,
    pub used_at: Option<Timestamp>,
    /// Hash of the request that it was used with: the same one may be repeated, as its answer may have been lost.
    pub used_for: String,
    /// The host that joined with it.
    pub used_by: String,
}

const TOKEN: &str = "id, secret_hash, hostname, expires_at, created_at, used_at, used_for, used_by";

fn token_row(r: &Row) -> Result<Token> {
    Ok(Token {
        id: r.text(0)?,
        secret_hash: r.text(1)?,
        hostname: r.text(2)?,
        expires_at: r.time(3)?,
        created_at: r.time(4)?,
        used_at: r.opt_time(5)?,
        used_for: r.text(6)?,
        used_by: r.text(7)?,
    })
}

pub fn token_list_in(tx: &Tx) -> Result<Vec<Token>> {
    tx.query(&format!("SELECT {TOKEN} FROM join_token ORDER BY created_at, id"), &[], token_row)
}

pub fn token_fetch_in(tx: &Tx, id: &str) -> Result<Option<Token>> {
    tx.query_opt(&format!("SELECT {TOKEN} FROM join_token WHERE id = ?1"), params![id], token_row)
}

pub fn token_add_in(tx: &Tx, token: &Token) -> Result<()> {
    // Those that are over for long tell nobody anything.
    tx.execute(&format!("DELETE FROM join_token WHERE expires_at + {} < ?1", KEPT.as_micros()), params![token.created_at])?;
    tx.execute(
        &format!("INSERT INTO join_token ({TOKEN}) VALUES (?1, ?2, ?3, ?4, ?5, NULL, '', '')"),
        params![&token.id, &token.secret_hash, &token.hostname, token.expires_at, token.created_at],
    )?;
    Ok(())
}

/// How long a token is shown after it expired.
const KEPT: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);

pub fn token_used_in(tx: &Tx, id: &str, used_for: &str, used_by: &str) -> Result<()> {
    let sql = "UPDATE join_token SET used_at = ?2, used_for = ?3, used_by = ?4 WHERE id = ?1";
    tx.execute(sql, params![id, Timestamp::now(), used_for, used_by]).map(drop)
}

pub fn token_delete_in(tx: &Tx, id: &str) -> Result<bool> {
    Ok(tx.execute("DELETE FROM join_token WHERE id = ?1", params![id])? > 0)
}
