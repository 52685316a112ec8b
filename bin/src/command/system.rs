//! `sturnus system`, also called as `system`: StarlingX's configuration command, as far as its verbs of hosts are there.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::host::{KIND, change, find, path, update};
use super::pretty::{self, Wrap};
use super::table::text;
use super::{Place, block_on};
use crate::client::Client;

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
    /// Delete a locked host
    #[command(name = "host-delete")]
    Delete(Which),
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
                let mut changes = Vec::new();
                for pair in &values {
                    let Some((name, value)) = pair.split_once('=') else { bail!("'{pair}' is not of the form name=value") };
                    changes.push((name, value.to_string()));
                }
                properties(&update(&cloud, &which.host, changes).await?);
            }
            System::Delete(which) => {
                let host = find(&cloud, &which.host).await?;
                cloud.call(Method::DELETE, KIND, &path(&host), None).await?;
                println!("Deleted host {}", which.host);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
