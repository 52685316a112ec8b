//! Redfish over HTTPS.

use std::time::Duration;

use base::error::Internal;
use base::{Error, Result};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::{Access, Action, Address, Power, Quantity, SENSORS, Sensor, Status, Thresholds};

const PATIENCE: Duration = Duration::from_secs(20);
/// How long a BMC may take to show that it is one.
const FIRST: Duration = Duration::from_secs(5);
/// No document of a BMC is larger.
const DOCUMENT: usize = 1 << 20;
/// Chassis whose sensors are read.
const CHASSIS: usize = 8;
const ROOT: &str = "/redfish/v1/";

pub(crate) struct Redfish {
    address: Address,
    username: String,
    password: String,
    client: Client,
}

impl Redfish {
    pub fn new(access: &Access) -> Result<Redfish> {
        // Ours is the only cryptography linked in; installed twice is as good as once.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).no_proxy();
        let client = match &access.authorities {
            None => client.tls_danger_accept_invalid_certs(true),
            Some(path) => {
                let pem = std::fs::read(path).map_err(|e| Error::invalid(format!("`bmc.ca`: {}: {e}", path.display())))?;
                let bundle = reqwest::Certificate::from_pem_bundle(&pem);
                client.tls_certs_only(bundle.map_err(|e| Error::invalid(format!("`bmc.ca`: {}: {e}", path.display())))?)
            }
        };
        Ok(Redfish {
            address: access.address,
            username: access.username.clone(),
            password: access.password.clone(),
            client: client.build().internal("a client for a BMC")?,
        })
    }

    /// Whether Redfish is spoken at all.
    pub async fn is_there(&self) -> bool {
        let root = tokio::time::timeout(FIRST, self.get(ROOT)).await;
        matches!(root, Ok(Ok(root)) if link(&root["Systems"]).is_some())
    }

    pub async fn power(&self) -> Result<Power> {
        let (_, system) = self.system().await?;
        match system["PowerState"].as_str() {
            Some("On" | "Paused") => Ok(Power::On),
            Some("Off") => Ok(Power::Off),
            Some("PoweringOn" | "PoweringOff") => Ok(Power::Changing),
            _ => Err(self.odd("its system has no PowerState")),
        }
    }

    pub async fn act(&self, action: Action) -> Result<()> {
        let (path, system) = self.system().await?;
        let reset = &system["Actions"]["#ComputerSystem.Reset"];
        let wanted: &[&str] = match action {
            Action::On => &["On", "ForceOn"],
            Action::Off => &["ForceOff"],
            Action::Reset => &["ForceRestart", "PowerCycle"],
        };
        let allowed = reset["ResetType@Redfish.AllowableValues"].as_array();
        let can = |word: &&&str| allowed.is_none_or(|allowed| allowed.iter().any(|value| value == **word));
        let word = wanted.iter().find(can).ok_or_else(|| self.odd(&format!("it cannot {}", action.word())))?;
        let target = match reset["target"].as_str() {
            Some(target) => inside(target).ok_or_else(|| self.odd("an action leads elsewhere"))?.to_string(),
            None => format!("{}/Actions/ComputerSystem.Reset", path.trim_end_matches('/')),
        };
        self.call(Method::POST, &target, Some(json!({"ResetType": word}))).await.map(drop)
    }

    pub async fn sensors(&self) -> Result<Vec<Sensor>> {
        let (_, system) = self.system().await?;
        let mut sensors = Vec::new();
        let chassis = system["Links"]["Chassis"].as_array().cloned().unwrap_or_default();
        for path in chassis.iter().filter_map(link).take(CHASSIS) {
            let chassis = self.get(path).await?;
            let (thermal, power) = (link(&chassis["Thermal"]), link(&chassis["Power"]));
            for path in [thermal, power].into_iter().flatten() {
                let document = self.get(path).await?;
                sensors.extend(LISTS.iter().flat_map(|list| listed(&document, list)));
            }
            // Newer ones have a document for each sensor in place of these two.
            if let (None, None, Some(all)) = (thermal, power, link(&chassis["Sensors"])) {
                let members = self.get(all).await?["Members"].as_array().cloned().unwrap_or_default();
                for path in members.iter().filter_map(link).take(SENSORS) {
                    sensors.extend(single(&self.get(path).await?));
                }
            }
        }
        Ok(sensors)
    }

    /// The one machine it manages.
    async fn system(&self) -> Result<(String, Value)> {
        let root = self.get(ROOT).await?;
        let systems = link(&root["Systems"]).ok_or_else(|| self.odd("it has no systems"))?;
        let systems = self.get(systems).await?;
        let members: Vec<&str> = systems["Members"].as_array().into_iter().flatten().filter_map(link).collect();
        match members[..] {
            [one] => Ok((one.to_string(), self.get(one).await?)),
            [] => Err(self.odd("it has no system")),
            // Which one is this host cannot be told: the wrong one must not be switched off.
            _ => Err(self.odd(&format!("it has {} systems; a host's has one", members.len()))),
        }
    }

    async fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, None).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let authority = match (self.address.port, self.address.ip) {
            (Some(_), _) => self.address.to_string(),
            (None, std::net::IpAddr::V6(ip)) => format!("[{ip}]"),
            (None, ip) => ip.to_string(),
        };
        let request = self.client.request(method, format!("https://{authority}{path}")).basic_auth(&self.username, Some(&self.password));
        let request = request.header("accept", "application/json").header("odata-version", "4.0");
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let unreachable =
            |e: reqwest::Error| Error::unavailable(format!("the BMC at {} does not answer", self.address)).caused_by(e.without_url());
        let mut answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(Error::forbidden(format!("the BMC at {} refuses the user name or the password", self.address)));
        }
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(unreachable)? {
            if bytes.len() + piece.len() > DOCUMENT {
                return Err(self.odd("a document is too large"));
            }
            bytes.extend_from_slice(&piece);
        }
        if !status.is_success() {
            let said: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let why: String = said["error"]["message"].as_str().unwrap_or_default().chars().take(200).collect();
            return Err(self.odd(&format!("{} {why}", status.as_u16())));
        }
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|e| self.odd("a document is no JSON").caused_by(e))
    }

    fn odd(&self, what: &str) -> Error {
        Error::unavailable(format!("the BMC at {}: {what}", self.address))
    }
}

/// A path of the same BMC: none of its documents leads our password elsewhere.
fn inside(path: &str) -> Option<&str> {
    let plain = path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'\\' | b'@' | b'#'));
    (plain && path.starts_with("/redfish/")).then_some(path)
}

fn link(reference: &Value) -> Option<&str> {
    inside(reference["@odata.id"].as_str()?)
}

/// A list of sensors in one document: its name, what is measured, the field of the reading and its unit.
struct List(&'static str, Quantity, &'static str, &'static str);

const LISTS: [List; 4] = [
    List("Temperatures", Quantity::Temperature, "ReadingCelsius", "degrees C"),
    List("Fans", Quantity::Fan, "Reading", "RPM"),
    List("Voltages", Quantity::Voltage, "ReadingVolts", "Volts"),
    List("PowerSupplies", Quantity::Power, "LastPowerOutputWatts", "Watts"),
];

fn listed(document: &Value, List(name, quantity, field, unit): &List) -> Vec<Sensor> {
    let one = |entry: &Value| {
        let name = ["Name", "FanName", "MemberId"].iter().find_map(|key| entry[*key].as_str())?;
        let number = |key: &str| entry[key].as_f64();
        Some(Sensor {
            name: name.to_string(),
            quantity: *quantity,
            reading: number(field),
            unit: entry["ReadingUnits"].as_str().unwrap_or(unit).to_string(),
            status: status(&entry["Status"], entry[*field].is_null())?,
            thresholds: Thresholds {
                lower_critical: number("LowerThresholdCritical"),
                lower_minor: number("LowerThresholdNonCritical"),
                upper_minor: number("UpperThresholdNonCritical"),
                upper_critical: number("UpperThresholdCritical"),
                ..Thresholds::default()
            },
        })
    };
    document[*name].as_array().into_iter().flatten().filter_map(one).collect()
}

/// A sensor with a document of its own.
fn single(document: &Value) -> Option<Sensor> {
    let unit = document["ReadingUnits"].as_str().unwrap_or_default();
    let threshold = |key: &str| document["Thresholds"][key]["Reading"].as_f64();
    Some(Sensor {
        name: document["Name"].as_str().or(document["Id"].as_str())?.to_string(),
        quantity: Quantity::of_unit(unit)?,
        reading: document["Reading"].as_f64(),
        unit: unit.to_string(),
        status: status(&document["Status"], document["Reading"].is_null())?,
        thresholds: Thresholds {
            lower_critical: threshold("LowerCritical"),
            lower_minor: threshold("LowerCaution"),
            upper_minor: threshold("UpperCaution"),
            upper_critical: threshold("UpperCritical"),
            ..Thresholds::default()
        },
    })
}

/// None: there is no such part in this machine.
fn status(status: &Value, silent: bool) -> Option<Status> {
    match (status["State"].as_str(), status["Health"].as_str()) {
        (Some("Absent"), _) => None,
        (_, Some("Critical")) => Some(Status::Critical),
        (_, Some("Warning")) => Some(Status::Minor),
        (Some("Enabled") | None, _) if !silent => Some(Status::Ok),
        _ => Some(Status::Offline),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_document_leads_elsewhere() {
        assert_eq!(inside("/redfish/v1/Systems/1"), Some("/redfish/v1/Systems/1"));
        for path in ["https://evil.example/redfish/", "//evil.example/redfish/", "/elsewhere", "/redfish/@evil", "/redfish/ v1", ""] {
            assert_eq!(inside(path), None, "{path}");
        }
    }

    #[test]
    fn sensors_of_both_kinds_of_documents() {
        let power = json!({"Voltages": [
            {"Name": "12V", "ReadingVolts": 12.1, "Status": {"State": "Enabled", "Health": "OK"}, "UpperThresholdCritical": 13.2},
            {"Name": "5V", "Status": {"State": "Absent"}},
            {"Name": "3V", "ReadingVolts": null, "Status": {"State": "Enabled", "Health": "OK"}}]});
        let sensors: Vec<Sensor> = LISTS.iter().flat_map(|list| listed(&power, list)).collect();
        assert_eq!(sensors.iter().map(|s| (s.name.as_str(), s.status)).collect::<Vec<_>>(), [("12V", Status::Ok), ("3V", Status::Offline)]);
        assert_eq!((sensors[0].reading, sensors[0].thresholds.upper_critical), (Some(12.1), Some(13.2)));
        let document = json!({"Name": "Inlet", "Reading": 41.5, "ReadingUnits": "Cel", "Status": {"State": "Enabled", "Health": "Warning"},
            "Thresholds": {"UpperCaution": {"Reading": 40.0}}});
        let sensor = single(&document).unwrap();
        assert_eq!((sensor.quantity, sensor.status, sensor.thresholds.upper_minor), (Quantity::Temperature, Status::Minor, Some(40.0)));
        assert_eq!(single(&json!({"Name": "x", "ReadingUnits": "furlong"})), None);
    }
}
