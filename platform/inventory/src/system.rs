//! The site as its operators describe it (inventory specification, section 3). There is exactly one.

use std::path::Path;

use base::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};
use store::{Tx, Value, params};

use crate::Inventory;

/// Longer texts are not taken.
const LONGEST: usize = 255;
/// What is in no text: it means something to shells, to pages, or to those who parse.
const SPECIAL: &str = "<>&\"'`$;|\\{}[]*?!%^=~";
/// Where time zones are.
const ZONES: &str = "/usr/share/zoneinfo";

#[derive(Clone, Debug, PartialEq)]
pub struct System {
    pub uuid: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub doc: SystemDoc,
}

/// What operators say of it; none: nothing yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SystemDoc {
    pub name: Option<String>,
    pub description: Option<String>,
    pub contact: Option<String>,
    pub location: Option<String>,
    pub latitude: Option<String>,
    pub longitude: Option<String>,
    pub timezone: Option<String>,
}

impl SystemDoc {
    /// Says another thing of it. An error names what cannot be, and why.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let refused = |why: &str| Err(Error::invalid(format!("{name}: {why}")));
        let place = match name {
            "name" => &mut self.name,
            "description" => &mut self.description,
            "contact" => &mut self.contact,
            "location" => &mut self.location,
            "latitude" => &mut self.latitude,
            "longitude" => &mut self.longitude,
            "timezone" => &mut self.timezone,
            "system_mode" => return refused("it follows from the hosts of the site, and cannot be set."),
            "sdn_enabled" | "vswitch_type" => return refused("this cloud has its own switch, and no other."),
            "https_enabled" => return refused("it follows from the address that the API listens on (`listen`)."),
            "software_version"
            | "system_type"
            | "uuid"
            | "region_name"
            | "service_project_name"
            | "distributed_cloud_role"
            | "security_feature"
            | "security_profile"
            | "capabilities" => return refused("it can only be read."),
            _ => return refused("a system has no such attribute."),
        };
        if value.len() > LONGEST {
            return refused(&format!("at most {LONGEST} bytes."));
        }
        if value.chars().any(|c| c.is_control() || SPECIAL.contains(c)) {
            return refused("special characters are not allowed.");
        }
        let within = |most: f64| value.parse::<f64>().is_ok_and(|degrees| degrees.abs() <= most);
        match name {
            "name" if value.is_empty() => return refused("it must not be empty."),
            "latitude" if !within(90.0) => return refused("degrees from -90 to 90."),
            "longitude" if !within(180.0) => return refused("degrees from -180 to 180."),
            "timezone" if !zone_exists(value) => return refused(&format!("there is no time zone '{value}'.")),
            _ => {}
        }
        *place = Some(value.into());
        Ok(())
    }
}

fn zone_exists(name: &str) -> bool {
    let plain = name.split('/').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-".contains(&b)));
    name == "UTC" || (plain && Path::new(ZONES).join(name).is_file())
}

const SQL: &str = "SELECT uuid, created_at, updated_at, doc FROM isystem ORDER BY created_at, uuid LIMIT 1";

impl Inventory {
    pub(crate) fn system_prepare_in(tx: &Tx) -> Result<()> {
        if tx.query_opt(SQL, &[], |r| r.text(0))?.is_some() {
            return Ok(());
        }
        let now = Timestamp::now();
        let sql = "INSERT INTO isystem (uuid, created_at, updated_at, doc) VALUES (?1, ?2, ?3, ?4)";
        tx.execute(sql, params![base::id::uuid(), now, now, Value::json(&SystemDoc::default())?]).map(drop)
    }

    pub(crate) fn system_in(&self, tx: &Tx) -> Result<System> {
        let row = |r: &store::Row| Ok(System { uuid: r.text(0)?, created_at: r.time(1)?, updated_at: r.time(2)?, doc: r.json(3)? });
        tx.query_one(SQL, &[], row)
    }

    pub(crate) fn system_put_in(&self, tx: &Tx, mut system: System) -> Result<System> {
        system.updated_at = Timestamp::now();
        let sql = "UPDATE isystem SET updated_at = ?2, doc = ?3 WHERE uuid = ?1";
        tx.execute(sql, params![&system.uuid, system.updated_at, Value::json(&system.doc)?])?;
        Ok(system)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_site_has_bounds() {
        let mut doc = SystemDoc::default();
        for (name, value) in [
            ("name", "edge 7"),
            ("latitude", "-90"),
            ("longitude", "179.99"),
            ("timezone", "UTC"),
            ("description", ""),
            ("contact", "a@b.example"),
        ] {
            doc.set(name, value).unwrap();
        }
        assert_eq!((doc.name.as_deref(), doc.latitude.as_deref()), (Some("edge 7"), Some("-90")));
        let before = doc.clone();
        for (name, value) in [
            ("name", ""),
            ("name", "<b>"),
            ("location", "a\nb"),
            ("contact", &"x".repeat(256)),
            ("latitude", "90.1"),
            ("latitude", "NaN"),
            ("longitude", "180.5"),
            ("longitude", "east"),
            ("timezone", "../../../etc/passwd"),
            ("timezone", "/etc/passwd"),
            ("timezone", "Nowhere/Land"),
            ("timezone", ""),
            ("system_mode", "duplex"),
            ("software_version", "1"),
            ("colour", "red"),
        ] {
            let refused = doc.set(name, value).unwrap_err();
            assert!(refused.message().starts_with(name), "{name} {value}: {}", refused.message());
        }
        assert_eq!(doc, before);
    }
}
