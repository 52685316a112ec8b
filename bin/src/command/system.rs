//! `sturnus system`, also called as `system`: StarlingX's configuration command, as far as its verbs of hosts and of what holds for the site are there.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::host::{KIND, change, find, path, update};
use super::pretty::{self, Wrap};
use super::table::text;
use super::{Place, block_on};
use crate::client::{Client, encoded};

/// Command-line interface to the hosts of a cloud.
#[derive(Parser)]
#[command(name = "system", version, propagate_version = true)]
pub struct Alone {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    verb: System,
}

impl Alone {
    pub fn run(self) -> Result<ExitCode> {
        block_on(self.verb.run(&self.place))
    }
}

#[derive(Subcommand)]
pub enum System {
    /// Show the site
    #[command(name = "show")]
    Site,
    /// Describe the site
    #[command(name = "modify")]
    SiteModify(Description),
    /// List hosts
    #[command(name = "host-list")]
    List,
    /// Show a host's attributes
    #[command(name = "host-show")]
    Show(Which),
    /// Announce a host that is to join; it comes up locked
    #[command(name = "host-add")]
    Add {
        #[arg(short = 'n', long, value_name = "HOSTNAME")]
        hostname: String,
        #[arg(short, long, default_value = "worker")]
        personality: String,
    },
    /// Lock a host: its instances leave it first
    #[command(name = "host-lock")]
    Lock {
        #[command(flatten)]
        which: Which,
        /// Wait for no instance
        #[arg(short, long)]
        force: bool,
    },
    /// Unlock a host
    #[command(name = "host-unlock")]
    Unlock {
        #[command(flatten)]
        which: Which,
        /// Also one that is not there
        #[arg(short, long)]
        force: bool,
    },
    /// Reboot a locked host
    #[command(name = "host-reboot")]
    Reboot(Which),
    /// Reset a locked host by its board management controller
    #[command(name = "host-reset")]
    Reset(Which),
    /// Power a locked host on
    #[command(name = "host-power-on")]
    PowerOn(Which),
    /// Power a locked host off
    #[command(name = "host-power-off")]
    PowerOff(Which),
    /// Switch activity away from a controller
    #[command(name = "host-swact")]
    Swact {
        #[command(flatten)]
        which: Which,
        #[arg(short, long)]
        force: bool,
    },
    /// Reinstall a host
    #[command(name = "host-reinstall")]
    Reinstall(Which),
    /// Change a host's attributes: bm_type, bm_ip, bm_username, bm_password
    #[command(name = "host-update")]
    Update {
        #[command(flatten)]
        which: Which,
        #[arg(value_name = "name=value", required = true)]
        values: Vec<String>,
    },
    /// List a host's sensors
    #[command(name = "host-sensor-list")]
    Sensors(Which),
    /// Show a sensor
    #[command(name = "host-sensor-show")]
    Sensor {
        #[command(flatten)]
        which: Which,
        sensor: String,
    },
    /// Change a sensor: state, suppress
    #[command(name = "host-sensor-modify")]
    SensorModify {
        #[command(flatten)]
        which: Which,
        sensor: String,
        #[arg(value_name = "name=value", required = true)]
        values: Vec<String>,
    },
    /// List a host's groups of sensors
    #[command(name = "host-sensorgroup-list")]
    Groups(Which),
    /// Show a group of sensors
    #[command(name = "host-sensorgroup-show")]
    Group {
        #[command(flatten)]
        which: Which,
        group: String,
    },
    /// Change a group of sensors: state, audit_interval_group, suppress, actions_minor_group, actions_major_group, actions_critical_group
    #[command(name = "host-sensorgroup-modify")]
    GroupModify {
        #[command(flatten)]
        which: Which,
        group: String,
        #[arg(value_name = "name=value", required = true)]
        values: Vec<String>,
    },
    /// Learn a host's sensors anew
    #[command(name = "host-sensorgroup-relearn")]
    Relearn(Which),
    /// Delete a locked host
    #[command(name = "host-delete")]
    Delete(Which),
    /// List service parameters
    #[command(name = "service-parameter-list")]
    Parameters {
        #[arg(long)]
        service: Option<String>,
        #[arg(long)]
        section: Option<String>,
        #[arg(long)]
        name: Option<String>,
    },
    /// Show a service parameter
    #[command(name = "service-parameter-show")]
    Parameter { uuid: String },
    /// Change service parameters; they hold when they are applied
    #[command(name = "service-parameter-modify")]
    ParameterModify {
        service: String,
        section: String,
        #[arg(value_name = "name=value", required = true)]
        values: Vec<String>,
    },
    /// Have a service's parameters hold
    #[command(name = "service-parameter-apply")]
    ParameterApply {
        service: String,
        #[arg(long)]
        section: Option<String>,
    },
}

/// What may be said of the site.
#[derive(Args)]
#[group(required = true, multiple = true)]
pub struct Description {
    #[arg(short, long)]
    name: Option<String>,
    #[arg(short, long)]
    description: Option<String>,
    #[arg(short, long)]
    contact: Option<String>,
    #[arg(short, long)]
    location: Option<String>,
    /// Degrees, north is positive
    #[arg(long, allow_hyphen_values = true)]
    latitude: Option<String>,
    /// Degrees, east is positive
    #[arg(long, allow_hyphen_values = true)]
    longitude: Option<String>,
    #[arg(short, long)]
    timezone: Option<String>,
    /// Refused: it follows from the hosts
    #[arg(short = 'm', long = "system_mode")]
    system_mode: Option<String>,
}

impl Description {
    fn changes(self) -> Vec<Value> {
        let Description { name, description, contact, location, latitude, longitude, timezone, system_mode } = self;
        let given = [
            ("name", name),
            ("description", description),
            ("contact", contact),
            ("location", location),
            ("latitude", latitude),
            ("longitude", longitude),
            ("timezone", timezone),
            ("system_mode", system_mode),
        ];
        let replace = |(name, value)| Some(json!({"op": "replace", "path": format!("/{name}"), "value": value?}));
        given.into_iter().filter_map(|(name, value): (&str, Option<String>)| replace((name, value))).collect()
    }
}

#[derive(Args)]
pub struct Which {
    /// Its name, number or UUID
    #[arg(value_name = "hostname or id")]
    host: String,
}

fn properties(host: &Value) {
    let shown = host.as_object().into_iter().flatten().filter(|(name, _)| *name != "links");
    pretty::print_properties(shown.map(|(name, value)| (name.as_str(), text(value))).collect());
}

impl System {
    pub async fn run(self, place: &Place) -> Result<ExitCode> {
        let cloud = Client::login(&place.load()?.home()).await?;
        match self {
            System::Site => site_show(&site(&cloud).await?),
            System::SiteModify(description) => {
                let place = format!("/isystems/{}", text(&site(&cloud).await?["uuid"]));
                site_show(&cloud.call(Method::PATCH, KIND, &place, Some(&json!(description.changes()))).await?);
            }
            System::List => {
                let hosts = cloud.get(KIND, "/ihosts").await?;
                let columns = ["id", "hostname", "personality", "administrative", "operational", "availability"];
                let row = |host: &Value| columns.iter().map(|key| text(&host[*key])).collect();
                let rows: Vec<Vec<String>> = hosts["ihosts"].as_array().into_iter().flatten().map(row).collect();
                pretty::print(&columns, &rows, Wrap::No);
            }
            System::Show(which) => properties(&find(&cloud, &which.host).await?),
            System::Add { hostname, personality } => {
                let body = json!({"hostname": hostname, "personality": personality});
                properties(&cloud.post(KIND, "/ihosts", &body).await?);
            }
            System::Lock { which, force } => {
                properties(&change(&cloud, &which.host, if force { "force-lock" } else { "lock" }).await?);
            }
            System::Unlock { which, force } => {
                properties(&change(&cloud, &which.host, if force { "force-unlock" } else { "unlock" }).await?);
            }
            System::Reboot(which) => properties(&change(&cloud, &which.host, "reboot").await?),
            System::Reset(which) => properties(&change(&cloud, &which.host, "reset").await?),
            System::PowerOn(which) => properties(&change(&cloud, &which.host, "power-on").await?),
            System::PowerOff(which) => properties(&change(&cloud, &which.host, "power-off").await?),
            System::Swact { which, force } => {
                properties(&change(&cloud, &which.host, if force { "force-swact" } else { "swact" }).await?);
            }
            System::Reinstall(which) => properties(&change(&cloud, &which.host, "reinstall").await?),
            System::Update { which, values } => {
                let pairs = pairs(&values)?;
                properties(&update(&cloud, &which.host, pairs).await?);
            }
            System::Sensors(which) => part_list(&cloud, &which, &SENSORS).await?,
            System::Sensor { which, sensor } => properties(&part(&cloud, &which, &SENSORS, &sensor).await?),
            System::SensorModify { which, sensor, values } => part_modify(&cloud, &which, &SENSORS, &sensor, &values).await?,
            System::Groups(which) => part_list(&cloud, &which, &GROUPS).await?,
            System::Group { which, group } => properties(&part(&cloud, &which, &GROUPS, &group).await?),
            System::GroupModify { which, group, values } => part_modify(&cloud, &which, &GROUPS, &group, &values).await?,
            System::Relearn(which) => {
                let host = find(&cloud, &which.host).await?;
                cloud.call(Method::POST, KIND, "/isensorgroups/relearn", Some(&json!({"host_uuid": host["uuid"]}))).await?;
                println!("{} sensor model is being relearned", which.host);
            }
            System::Delete(which) => {
                let host = find(&cloud, &which.host).await?;
                cloud.call(Method::DELETE, KIND, &path(&host), None).await?;
                println!("Deleted host {}", which.host);
            }
            System::Parameters { service, section, name } => {
                let columns = ["uuid", "service", "section", "name", "value", "personality", "resource"];
                let wanted = [("service", service), ("section", section), ("name", name)];
                let all = parameters(&cloud, &wanted).await?;
                let rows: Vec<Vec<String>> = all.iter().map(|one| columns.iter().map(|key| text(&one[*key])).collect()).collect();
                pretty::print(&columns, &rows, Wrap::No);
            }
            System::Parameter { uuid } => properties(&cloud.get(KIND, &format!("/service_parameter/{}", encoded(&uuid))).await?),
            System::ParameterModify { service, section, values } => parameters_modify(&cloud, service, section, &values).await?,
            System::ParameterApply { service, section } => {
                let mut body = json!({"service": service});
                if let Some(section) = section {
                    body["section"] = json!(section);
                }
                cloud.call(Method::POST, KIND, "/service_parameter/apply", Some(&body)).await?;
                println!("Applying {service} service parameters");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn site(cloud: &Client) -> Result<Value> {
    Ok(cloud.get(KIND, "/isystems").await?["isystems"][0].clone())
}

/// As StarlingX's client shows it: what it is capable of among the rest.
fn site_show(system: &Value) {
    let mut flat = system.clone();
    let capabilities = flat.as_object_mut().and_then(|all| all.remove("capabilities")).unwrap_or_default();
    for name in ["https_enabled", "sdn_enabled", "vswitch_type"] {
        flat[name] = capabilities[name].clone();
    }
    properties(&flat);
}

/// Those of which all of this is so.
async fn parameters(cloud: &Client, wanted: &[(&str, Option<String>)]) -> Result<Vec<Value>> {
    let pair = |(key, value): &(&str, Option<String>)| value.as_ref().map(|value| format!("{key}={}", encoded(value)));
    let query: Vec<String> = wanted.iter().filter_map(pair).collect();
    let all = cloud.get(KIND, &format!("/service_parameter?{}", query.join("&"))).await?;
    Ok(all["parameters"].as_array().cloned().unwrap_or_default())
}

async fn parameters_modify(cloud: &Client, service: String, section: String, values: &[String]) -> Result<()> {
    let of = format!("{service} {section}");
    let known = parameters(cloud, &[("service", Some(service)), ("section", Some(section))]).await?;
    let mut changes = Vec::new();
    // All are there before the first is changed.
    for (name, value) in pairs(values)? {
        let Some(found) = known.iter().find(|one| text(&one["name"]) == name) else { bail!("{of} has no service parameter {name}") };
        changes.push((text(&found["uuid"]), value));
    }
    for (uuid, value) in changes {
        let body = json!([{"op": "replace", "path": "/value", "value": value}]);
        properties(&cloud.call(Method::PATCH, KIND, &format!("/service_parameter/{uuid}"), Some(&body)).await?);
    }
    Ok(())
}

/// Parts of a host: their collection, the key of their name, and the columns of their list.
struct Parts(&'static str, &'static str, [&'static str; 5]);

const SENSORS: Parts = Parts("isensors", "sensorname", ["uuid", "sensorname", "sensortype", "state", "status"]);
const GROUPS: Parts = Parts("isensorgroups", "sensorgroupname", ["uuid", "sensorgroupname", "sensortype", "state", "audit_interval_group"]);

fn pairs(values: &[String]) -> Result<Vec<(&str, String)>> {
    let mut all = Vec::new();
    for pair in values {
        let Some((name, value)) = pair.split_once('=') else { bail!("'{pair}' is not of the form name=value") };
        all.push((name, value.to_string()));
    }
    Ok(all)
}

async fn part_all(cloud: &Client, which: &Which, Parts(collection, ..): &Parts) -> Result<Vec<Value>> {
    let host = find(cloud, &which.host).await?;
    let all = cloud.get(KIND, &format!("{}/{collection}", path(&host))).await?;
    Ok(all[*collection].as_array().cloned().unwrap_or_default())
}

async fn part_list(cloud: &Client, which: &Which, parts: &Parts) -> Result<()> {
    let all = part_all(cloud, which, parts).await?;
    let rows: Vec<Vec<String>> = all.iter().map(|one| parts.2.iter().map(|key| text(&one[*key])).collect()).collect();
    pretty::print(&parts.2, &rows, Wrap::No);
    Ok(())
}

/// One by its name or UUID.
async fn part(cloud: &Client, which: &Which, parts: &Parts, name: &str) -> Result<Value> {
    let found = part_all(cloud, which, parts).await?.into_iter().find(|one| text(&one["uuid"]) == name || text(&one[parts.1]) == name);
    match found {
        Some(found) => Ok(found),
        None => bail!("host {} has no {name} among its {}", which.host, parts.0),
    }
}

async fn part_modify(cloud: &Client, which: &Which, parts: &Parts, name: &str, values: &[String]) -> Result<()> {
    let found = part(cloud, which, parts, name).await?;
    let replace = |(name, value): (&str, String)| json!({"op": "replace", "path": format!("/{name}"), "value": value});
    let changes: Vec<Value> = pairs(values)?.into_iter().map(replace).collect();
    let place = format!("/{}/{}", parts.0, text(&found["uuid"]));
    properties(&cloud.call(Method::PATCH, KIND, &place, Some(&json!(changes))).await?);
    Ok(())
}
