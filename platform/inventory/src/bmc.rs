//! The BMCs of hosts: how they are reached, kept with the host (the password sealed), and what is seen of them.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ::bmc::{Access, Address, Bmc, Power, Protocol};
use base::error::Internal;
use base::{Config, Error, Result};
use fault::{Alarm, Severity};
use fernet::Fernet;
use store::Tx;

use crate::Inventory;
use crate::db::{self, Host};
use crate::hosts::entity;

/// Maintenance cannot reach the BMC.
const ACCESS: &str = "200.010";
/// Times in a row that a BMC must be silent until it is said.
pub const UNREACHABLE: u32 = 5;
/// IPMI has no room for more.
const IPMI_PASSWORD: usize = 20;
const LONGEST: usize = 255;

/// Opens what is kept of BMCs, and keeps what was learned of them.
pub struct Bmcs {
    key: Fernet,
    authorities: Option<PathBuf>,
    known: Mutex<HashMap<String, Arc<Bmc>>>,
}

impl Bmcs {
    pub fn open(config: &Config) -> Result<Bmcs> {
        let authorities = Some(config.text("bmc.ca")).filter(|path| !path.is_empty()).map(PathBuf::from);
        Ok(Bmcs { key: key(&config.home().join("keys"))?, authorities, known: Mutex::default() })
    }

    fn access(&self, host: &Host) -> Result<Option<Access>> {
        let protocol = match host.bm_type.as_str() {
            "dynamic" => None,
            "ipmi" => Some(Protocol::Ipmi),
            "redfish" => Some(Protocol::Redfish),
            _ => return Ok(None),
        };
        let lost = || Error::internal(format!("keys/bmc does not open the password of {}'s BMC", host.hostname));
        let password = self.key.decrypt(&host.bm_sealed).map_err(|_| lost())?;
        Ok(Some(Access {
            address: host.bm_ip.parse()?,
            username: host.bm_username.clone(),
            password: String::from_utf8(password).map_err(|_| lost())?,
            protocol,
            authorities: self.authorities.clone(),
        }))
    }
}

/// The key that seals passwords of BMCs: `keys/bmc`, made at first use.
fn key(directory: &Path) -> Result<Fernet> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).internal("cannot make the directory of keys")?;
    let path = directory.join("bmc");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let made = Fernet::generate_key();
            let part = path.with_extension("part");
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
            let mut file = file.internal("cannot write a key")?;
            file.write_all(made.as_bytes()).and_then(|()| file.sync_all()).internal("cannot write a key")?;
            std::fs::rename(&part, &path).internal("cannot write a key")?;
            made
        }
        Err(e) => return Err(e).internal("cannot read keys/bmc"),
    };
    Fernet::new(text.trim()).ok_or_else(|| Error::internal("keys/bmc is damaged: remove it, and give the passwords of BMCs again"))
}

/// What is to be changed of a host's BMC.
#[derive(Clone, Default)]
pub struct BmcChange {
    pub kind: Option<String>,
    pub ip: Option<String>,
    pub username: Option<String>,
    pub password: Option<String>,
}

impl Host {
    pub fn has_bmc(&self) -> bool {
        self.bm_type != "none"
    }

    pub(crate) fn bmc_clear(&mut self) {
        self.bm_type = "none".into();
        for text in [&mut self.bm_ip, &mut self.bm_username, &mut self.bm_sealed] {
            text.clear();
        }
        (self.powered_off, self.hot) = (false, false);
    }
}

impl Inventory {
    /// A host's BMC, if it has one.
    pub fn bmc_of(&self, host: &Host) -> Result<Option<Arc<Bmc>>> {
        let Some(access) = self.bmcs.access(host)? else { return Ok(None) };
        let mut known = self.bmcs.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bmc) = known.get(&host.uuid).filter(|bmc| *bmc.access() == access) {
            return Ok(Some(bmc.clone()));
        }
        let bmc = Arc::new(Bmc::new(access)?);
        known.insert(host.uuid.clone(), bmc.clone());
        Ok(Some(bmc))
    }

    /// Says where a host's BMC is and how one may enter.
    pub fn host_bmc_change_in(&self, tx: &Tx, mut host: Host, change: BmcChange) -> Result<Host> {
        let kind = change.kind.unwrap_or_else(|| host.bm_type.clone()).to_lowercase();
        // The word of older clients.
        let kind = if kind == "bmc" { "dynamic" } else { kind.as_str() };
        if !["none", "dynamic", "ipmi", "redfish"].contains(&kind) {
            return Err(Error::invalid(format!("bm_type: '{kind}' is none of none, dynamic, ipmi, redfish.")));
        }
        self.faults.alarm_clear_in(tx, ACCESS, &entity(&host.hostname))?;
        if kind == "none" {
            self.sensors_forget_in(tx, &host)?;
            host.bmc_clear();
            db::host_put_in(tx, &mut host)?;
            return Ok(host);
        }
        host.bm_type = kind.into();
        if let Some(ip) = change.ip {
            let address: Address = ip.trim().parse().map_err(|e: Error| Error::invalid(format!("bm_ip: {}", e.message())))?;
            host.bm_ip = address.to_string();
        }
        if let Some(username) = change.username {
            host.bm_username = text("bm_username", username, LONGEST)?;
        }
        if let Some(password) = change.password {
            let longest = if kind == "ipmi" { IPMI_PASSWORD } else { LONGEST };
            host.bm_sealed = self.bmcs.key.encrypt(text("bm_password", password, longest)?.as_bytes());
        }
        for (name, value) in [("bm_ip", &host.bm_ip), ("bm_username", &host.bm_username), ("bm_password", &host.bm_sealed)] {
            if value.is_empty() {
                return Err(Error::invalid(format!("{name}: it is needed when bm_type is {kind}.")));
            }
        }
        if let Some(other) = db::host_list_in(tx)?.into_iter().find(|h| h.uuid != host.uuid && h.bm_ip == host.bm_ip) {
            return Err(Error::exists(format!("bm_ip: {} is that of host {}.", host.bm_ip, other.hostname)));
        }
        db::host_put_in(tx, &mut host)?;
        Ok(host)
    }

    /// What a BMC said last: its machine's power, or none so many times in a row, the last time for this reason.
    pub fn host_power_seen_in(&self, tx: &Tx, id: &str, seen: std::result::Result<Power, (u32, String)>) -> Result<()> {
        let Some(mut host) = db::host_fetch_in(tx, id)?.filter(|h| !h.deleted && h.has_bmc()) else { return Ok(()) };
        match seen {
            Ok(power) => {
                self.faults.alarm_clear_in(tx, ACCESS, &entity(&host.hostname))?;
                let off = power == Power::Off;
                if host.powered_off != off {
                    host.powered_off = off;
                    db::host_put_in(tx, &mut host)?;
                }
            }
            Err((times, why)) if times >= UNREACHABLE => {
                let text = format!("Access to {}'s board management controller (BMC) failed: {why}", host.hostname);
                let repair = "Check the BMC's address and link, and the user name and password that the host is known with.";
                self.faults.alarm_set_in(tx, &Alarm::known(ACCESS, entity(&host.hostname), Severity::Warning, text, repair))?;
            }
            Err(_) => {}
        }
        Ok(())
    }
}

fn text(name: &str, value: String, longest: usize) -> Result<String> {
    match value.chars().any(char::is_control) || value.len() > longest {
        true => Err(Error::invalid(format!("{name}: at most {longest} bytes, none of them a control character."))),
        false => Ok(value),
    }
}
