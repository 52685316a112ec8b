//! `sturnus host`: this machine's host, and all hosts of the cloud.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::table::{self, text};
use super::{Place, up};
use crate::client::{Client, encoded};

pub(super) const KIND: &str = "platform";
/// How often a host that is being worked on is looked at.
const LOOK: std::time::Duration = std::time::Duration::from_millis(300);

/// Without a subcommand: run this machine's host, as `sturnus join` set it up.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Host {
    #[command(flatten)]
    up: up::Up,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// List the hosts of the cloud
    List,
    /// Show a host
    Show { host: String },
    /// Announce a host that is to join; it comes up locked
    Add { name: String },
    /// Make a one-time token, and print the command that another machine joins with
    Token(Token),
    /// Take a host out of service: its instances move to other hosts first
    Lock {
        host: String,
        /// Wait for no instance: they end here, and are brought up elsewhere when that is certain
        #[arg(short, long)]
        force: bool,
    },
    /// Put a host into service
    Unlock {
        host: String,
        /// Also one that is not there: it is in service when it comes
        #[arg(short, long)]
        force: bool,
    },
    /// Reboot a locked host's machine
    Reboot { host: String },
    /// Reset a locked host's machine by its management controller (BMC)
    Reset { host: String },
    /// Switch a locked host's machine on
    PowerOn { host: String },
    /// Switch a locked host's machine off
    PowerOff { host: String },
    /// Say where a host's management controller (BMC) is; its password is read from STURNUS_BMC_PASSWORD
    Bmc {
        host: String,
        /// none, dynamic (Redfish where it is spoken, else IPMI), ipmi or redfish
        #[arg(long = "type", default_value = "dynamic")]
        kind: String,
        /// Its address, and :PORT where that is not the usual one
        #[arg(long)]
        address: Option<String>,
        #[arg(long)]
        username: Option<String>,
    },
    /// Delete a locked host and revoke its certificate
    Delete { host: String },
}

#[derive(Args)]
struct Token {
    /// The only host that may use it
    #[arg(long)]
    name: Option<String>,
    /// How long it is good, in seconds
    #[arg(long, default_value_t = 3600)]
    lifetime: u64,
}

impl Host {
    pub fn run(self, place: &Place) -> Result<ExitCode> {
        match self.command {
            None => self.up.run(place, Some("host")),
            Some(command) => super::block_on(command.run(place)),
        }
    }
}

impl Command {
    async fn run(self, place: &Place) -> Result<ExitCode> {
        let cloud = Client::login(&place.load()?.home()).await?;
        match self {
            Command::List => list(&cloud).await?,
            Command::Show { host } => show(&find(&cloud, &host).await?),
            Command::Add { name } => {
                let body = json!({"hostname": name, "personality": "worker"});
                show(&cloud.post(KIND, "/ihosts", &body).await?);
            }
            Command::Token(token) => {
                let body = json!({"hostname": token.name.unwrap_or_default(), "lifetime_seconds": token.lifetime});
                let made = cloud.post(KIND, "/join_tokens", &body).await?;
                let endpoint = cloud.endpoint(KIND)?;
                let url = endpoint.trim_end_matches("/inventory/v1");
                println!("sturnus join {url} --token {}", made["token"].as_str().unwrap_or_default());
            }
            Command::Lock { host, force } => act(&cloud, &host, if force { "force-lock" } else { "lock" }).await?,
            Command::Unlock { host, force } => act(&cloud, &host, if force { "force-unlock" } else { "unlock" }).await?,
            Command::Reboot { host } => act(&cloud, &host, "reboot").await?,
            Command::Reset { host } => act(&cloud, &host, "reset").await?,
            Command::PowerOn { host } => act(&cloud, &host, "power-on").await?,
            Command::PowerOff { host } => act(&cloud, &host, "power-off").await?,
            Command::Bmc { host, kind, address, username } => {
                let password = std::env::var("STURNUS_BMC_PASSWORD").ok();
                let given = [("bm_type", Some(kind)), ("bm_ip", address), ("bm_username", username), ("bm_password", password)];
                show(&update(&cloud, &host, given.into_iter().filter_map(|(name, value)| Some((name, value?)))).await?);
            }
            Command::Delete { host } => {
                let found = find(&cloud, &host).await?;
                cloud.call(Method::DELETE, KIND, &path(&found), None).await?;
                println!("Deleted host {host}");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) fn path(host: &Value) -> String {
    format!("/ihosts/{}", encoded(host["uuid"].as_str().unwrap_or_default()))
}

/// A host by its name, number or UUID.
pub(super) async fn find(cloud: &Client, name: &str) -> Result<Value> {
    let hosts = cloud.get(KIND, "/ihosts").await?;
    let is = |host: &&Value| ["hostname", "uuid", "id"].iter().any(|key| text(&host[*key]) == name);
    match hosts["ihosts"].as_array().and_then(|hosts| hosts.iter().find(is)) {
        Some(host) => Ok(host.clone()),
        None => bail!("there is no host {name}; `sturnus host list` shows those there are"),
    }
}

async fn list(cloud: &Client) -> Result<()> {
    let hosts = cloud.get(KIND, "/ihosts").await?;
    let row = |host: &Value| {
        ["id", "hostname", "personality", "administrative", "operational", "availability", "mgmt_ip"].map(|key| text(&host[key])).to_vec()
    };
    let rows: Vec<Vec<String>> = hosts["ihosts"].as_array().into_iter().flatten().map(row).collect();
    table::print(&["ID", "Name", "Personality", "Administrative", "Operational", "Availability", "Address"], &rows);
    Ok(())
}

fn show(host: &Value) {
    let shown = host.as_object().into_iter().flatten().filter(|(name, _)| *name != "links");
    let rows: Vec<Vec<String>> = shown.map(|(name, value)| vec![name.clone(), text(value)]).collect();
    table::print(&["Field", "Value"], &rows);
}

/// Asks for an action on a host; the host as it is then.
pub(super) async fn change(cloud: &Client, name: &str, action: &str) -> Result<Value> {
    update(cloud, name, [("action", action.to_string())]).await
}

/// Replaces attributes of a host; the host as it is then.
pub(super) async fn update<'a>(cloud: &Client, name: &str, values: impl IntoIterator<Item = (&'a str, String)>) -> Result<Value> {
    let host = find(cloud, name).await?;
    let replace = |(name, value)| json!({"op": "replace", "path": format!("/{name}"), "value": value});
    let changes: Vec<Value> = values.into_iter().map(replace).collect();
    cloud.call(Method::PATCH, KIND, &path(&host), Some(&json!(changes))).await
}

async fn act(cloud: &Client, name: &str, action: &str) -> Result<()> {
    let mut now = change(cloud, name, action).await?;
    let mut told = String::new();
    // Its instances leave first, which takes as long as it takes; what happens is told meanwhile.
    // One that failed says so in its task as well, and stays so.
    let failed = |host: &Value| text(&host["availability"]) == "failed" && !text(&host["vim_progress_status"]).is_empty();
    while !text(&now["task"]).is_empty() && !failed(&now) {
        if told != text(&now["task"]) {
            told = text(&now["task"]);
            eprintln!("{name}: {told} ...");
        }
        tokio::time::sleep(LOOK).await;
        now = cloud.get(KIND, &path(&now)).await?;
    }
    show(&now);
    match text(&now["vim_progress_status"]) {
        refused if !told.is_empty() && !refused.is_empty() => bail!(refused),
        _ => Ok(()),
    }
}
