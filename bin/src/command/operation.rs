//! `sturnus operation`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

use super::Place;
use super::table::{self, text};
use crate::client::Client;

const KIND: &str = "operation";
/// Between two looks at an operation that is watched.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Subcommand)]
pub enum Operation {
    /// List operations that are not over, newest first
    List(List),
    /// Show an operation
    Show { id: String },
    /// Follow an operation until it is over; fails when the operation failed
    Watch { id: String },
    /// Stop an operation before its next step and undo it
    Cancel { id: String },
}

#[derive(Args)]
pub struct List {
    /// Those that are over too
    #[arg(long)]
    all: bool,
    /// Only of this kind, such as compute.server_create
    #[arg(long)]
    kind: Option<String>,
    /// Only of the server, volume, ... with this id
    #[arg(long, value_name = "ID")]
    resource: Option<String>,
    /// Only in this state: pending, running, undoing, done, failed, cancelled
    #[arg(long)]
    state: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    limit: u32,
}

impl Operation {
    pub async fn run(self, place: &Place) -> Result<ExitCode> {
        let cloud = Client::login(&place.load()?.home()).await?;
        match self {
            Operation::List(list) => list.run(&cloud).await?,
            Operation::Show { id } => show(&fetch(&cloud, &id).await?),
            Operation::Watch { id } => return watch(&cloud, &id).await,
            Operation::Cancel { id } => {
                let answer = cloud.call(Method::DELETE, KIND, &format!("/v1/operations/{id}"), None).await?;
                show(&answer["operation"]);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    async fn run(self, cloud: &Client) -> Result<()> {
        let mut query = vec![("limit", self.limit.to_string())];
        query.extend((!self.all && self.state.is_none()).then(|| ("open", "true".to_string())));
        query.extend(
            [("kind", self.kind), ("resource_id", self.resource), ("state", self.state)].into_iter().filter_map(|(k, v)| Some((k, v?))),
        );
        let words: Vec<String> = query.iter().map(|(key, value)| format!("{key}={}", crate::client::encoded(value))).collect();
        let found = cloud.get(KIND, &format!("/v1/operations?{}", words.join("&"))).await?;
        let rows: Vec<Vec<String>> = found["operations"].as_array().into_iter().flatten().map(row).collect();
        table::print(&["ID", "Kind", "Resource", "State", "Step", "Progress", "Created at"], &rows);
        Ok(())
    }
}

fn row(operation: &Value) -> Vec<String> {
    let mut row: Vec<String> = ["id", "kind", "resource_id", "state", "step"].map(|key| text(&operation[key])).to_vec();
    row.push(format!("{} %", operation["progress"]));
    row.push(text(&operation["created_at"]));
    row
}

fn show(operation: &Value) {
    let rows: Vec<Vec<String>> = operation.as_object().into_iter().flatten().map(|(name, value)| vec![name.clone(), text(value)]).collect();
    table::print(&["Field", "Value"], &rows);
}

async fn fetch(cloud: &Client, id: &str) -> Result<Value> {
    Ok(cloud.get(KIND, &format!("/v1/operations/{}", crate::client::encoded(id))).await?["operation"].take())
}

/// Says each new state and step once; on a terminal the last line is kept up to date.
async fn watch(cloud: &Client, id: &str) -> Result<ExitCode> {
    let live = std::io::stdout().is_terminal();
    let mut said = String::new();
    loop {
        let operation = fetch(cloud, id).await?;
        let (state, step) = (text(&operation["state"]), text(&operation["step"]));
        let line = format!("{state:<10} {step:<16} {:>3} %", operation["progress"]);
        if line != said {
            if live && !said.is_empty() {
                print!("\r");
            }
            print!("{line}{}", if live { "" } else { "\n" });
            std::io::stdout().flush()?;
            said = line;
        }
        if !operation["finished_at"].is_null() {
            if live {
                println!();
            }
            match state.as_str() {
                "done" => return Ok(ExitCode::SUCCESS),
                "cancelled" => bail!("it was cancelled"),
                _ => bail!("it failed: {}", text(&operation["error"])),
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
