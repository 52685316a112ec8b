//! `sturnus fm`, also called as `fm`: StarlingX's fault command, with its verbs, options and tables.

use std::collections::HashMap;
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Place, pretty};
use crate::client::Client;

#[derive(Subcommand)]
pub enum Fm {
    /// List active alarms, newest first
    AlarmList(AlarmList),
    /// Show an active alarm
    AlarmShow {
        /// UUID of the alarm
        uuid: String,
    },
    /// Delete (clear) an active alarm
    AlarmDelete {
        uuid: String,
        /// Do not ask, whatever CLI_CONFIRMATIONS says
        #[arg(long)]
        yes: bool,
    },
    /// Count active alarms by severity
    AlarmSummary {
        /// Count suppressed alarms too
        #[arg(long = "include_suppress")]
        include_suppress: bool,
    },
    /// List events, newest first
    EventList(EventList),
    /// Show an event
    EventShow {
        /// UUID of the event
        uuid: String,
    },
    /// Keep alarms of these ids out of lists
    EventSuppress(Suppress),
    /// Show alarms of these ids in lists again
    EventUnsuppress(Suppress),
    /// Show alarms of all ids in lists again
    EventUnsuppressAll {
        #[arg(long)]
        yes: bool,
        #[arg(long)]
        uuid: bool,
        #[arg(long)]
        nopaging: bool,
    },
    /// List suppressed alarm ids
    EventSuppressList {
        /// List all ids
        #[arg(long = "include-unsuppressed")]
        include_unsuppressed: bool,
        #[arg(long)]
        uuid: bool,
        #[arg(long)]
        nopaging: bool,
    },
}

#[derive(Args)]
pub struct AlarmList {
    /// Conditions, as 'field=value;field>=type::value'
    #[arg(short, long, value_name = "QUERY")]
    query: Option<String>,
    /// Show UUIDs
    #[arg(long)]
    uuid: bool,
    /// Show suppressed alarms too
    #[arg(long = "include_suppress")]
    include_suppress: bool,
    /// Show whether an alarm affects management
    #[arg(long = "mgmt_affecting")]
    mgmt_affecting: bool,
    /// Show whether an alarm degrades its host
    #[arg(long = "degrade_affecting")]
    degrade_affecting: bool,
    /// Do not wrap long texts
    #[arg(long)]
    nowrap: bool,
}

#[derive(Args)]
pub struct EventList {
    /// Conditions, as 'field=value;start=2026-01-01'
    #[arg(short, long, value_name = "QUERY")]
    query: Option<String>,
    /// Most events to show
    #[arg(short, long, value_name = "NUMBER")]
    limit: Option<u32>,
    /// Only alarms that were set or cleared
    #[arg(long)]
    alarms: bool,
    /// Only logs
    #[arg(long)]
    logs: bool,
    #[arg(long)]
    uuid: bool,
    #[arg(long = "include_suppress")]
    include_suppress: bool,
    /// Accepted for old scripts: output is never paged
    #[arg(long)]
    nopaging: bool,
    #[arg(long)]
    nowrap: bool,
}

#[derive(Args)]
pub struct Suppress {
    /// Alarm ids, separated by commas
    #[arg(long = "alarm_id", value_name = "ID,...")]
    alarm_id: String,
    #[arg(long)]
    uuid: bool,
    #[arg(long)]
    nopaging: bool,
    #[arg(long)]
    yes: bool,
}

const KIND: &str = "faultmanagement";

impl Fm {
    pub async fn run(self, place: &Place) -> Result<ExitCode> {
        let cloud = Client::login(&place.load()?.home()).await?;
        match self {
            Fm::AlarmList(list) => list.run(&cloud).await?,
            Fm::EventList(list) => list.run(&cloud).await?,
            Fm::AlarmShow { uuid } => show(&cloud, &format!("/v1/alarms/{uuid}"), ALARM).await?,
            Fm::EventShow { uuid } => show(&cloud, &format!("/v1/event_log/{uuid}"), EVENT).await?,
            Fm::AlarmDelete { uuid, yes } => {
                if confirmed(yes)? {
                    cloud.call(Method::DELETE, KIND, &format!("/v1/alarms/{uuid}"), None).await?;
                }
            }
            Fm::AlarmSummary { include_suppress } => {
                let counts = cloud.get(KIND, &format!("/v1/alarms/summary?include_suppress={include_suppress}")).await?;
                let row = ["critical", "major", "minor", "warnings"].map(|key| counts[key].to_string());
                pretty::print(&["Critical Alarms", "Major Alarms", "Minor Alarms", "Warnings"], &[row.to_vec()], pretty::Wrap::No);
            }
            Fm::EventSuppress(ids) => ids.run(&cloud, "suppressed").await?,
            Fm::EventUnsuppress(ids) => ids.run(&cloud, "unsuppressed").await?,
            Fm::EventUnsuppressAll { yes, uuid, .. } => {
                if confirmed(yes)? {
                    let suppressed = suppressions(&cloud).await?.into_iter().filter(|s| s["suppression_status"] == "suppressed");
                    for entry in suppressed {
                        change(&cloud, &entry, "unsuppressed").await?;
                    }
                    suppressions_print(&cloud, false, uuid).await?;
                }
            }
            Fm::EventSuppressList { include_unsuppressed, uuid, .. } => suppressions_print(&cloud, include_unsuppressed, uuid).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Property names of a whole alarm, in the order they are shown.
const ALARM: &[&str] = &[
    "uuid",
    "alarm_id",
    "alarm_state",
    "entity_type_id",
    "entity_instance_id",
    "timestamp",
    "severity",
    "reason_text",
    "alarm_type",
    "probable_cause",
    "proposed_repair_action",
    "service_affecting",
    "suppression",
    "suppression_status",
    "mgmt_affecting",
    "degrade_affecting",
];

const EVENT: &[&str] = &[
    "uuid",
    "event_log_id",
    "state",
    "entity_type_id",
    "entity_instance_id",
    "timestamp",
    "severity",
    "reason_text",
    "event_log_type",
    "probable_cause",
    "proposed_repair_action",
    "service_affecting",
    "suppression",
    "suppression_status",
];

/// A value as Python prints it.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

async fn show(cloud: &Client, path: &str, properties: &[&str]) -> Result<()> {
    let record = cloud.get(KIND, path).await?;
    let rows: Vec<Vec<String>> = properties.iter().map(|p| vec![p.to_string(), text(&record[*p])]).collect();
    pretty::print(&["Property", "Value"], &rows, pretty::Wrap::Terminal);
    Ok(())
}

impl AlarmList {
    async fn run(self, cloud: &Client) -> Result<()> {
        let mut path = format!("/v1/alarms?limit=2000&sort_key=timestamp&sort_dir=desc&include_suppress={}", self.include_suppress);
        if let Some(query) = &self.query {
            path.push_str(&conditions(query)?);
        }
        let list = cloud.get(KIND, &path).await?;
        let mut headings = vec!["Alarm ID", "Reason Text", "Entity ID", "Severity"];
        let mut keys = vec!["alarm_id", "reason_text", "entity_instance_id", "severity"];
        if self.uuid {
            headings.insert(0, "UUID");
            keys.insert(0, "uuid");
        }
        if self.mgmt_affecting {
            headings.push("Management Affecting");
            keys.push("mgmt_affecting");
        }
        if self.degrade_affecting {
            headings.push("Degrade Affecting");
            keys.push("degrade_affecting");
        }
        headings.push("Time Stamp");
        keys.push("timestamp");
        let cell = |alarm: &Value, key: &&str| match *key {
            "alarm_id" if alarm["suppression_status"] == "suppressed" => format!("S({})", text(&alarm["alarm_id"])),
            key => text(&alarm[key]),
        };
        print_list(&list["alarms"], &headings, |alarm| keys.iter().map(|key| cell(alarm, key)).collect(), self.nowrap);
        Ok(())
    }
}

impl EventList {
    async fn run(self, cloud: &Client) -> Result<()> {
        let mut path = format!(
            "/v1/event_log?limit={}&alarms={}&logs={}&include_suppress={}",
            self.limit.unwrap_or(2000),
            self.alarms,
            self.logs,
            self.include_suppress
        );
        if let Some(query) = &self.query {
            path.push_str(&conditions(query)?);
        }
        let list = cloud.get(KIND, &path).await?;
        let mut headings = vec!["Time Stamp", "State", "Event Log ID", "Reason Text", "Entity Instance ID", "Severity"];
        let mut keys = vec!["timestamp", "state", "event_log_id", "reason_text", "entity_instance_id", "severity"];
        if self.uuid {
            headings.insert(0, "UUID");
            keys.insert(0, "uuid");
        }
        print_list(&list["event_log"], &headings, |event| keys.iter().map(|key| text(&event[*key])).collect(), self.nowrap);
        Ok(())
    }
}

fn print_list(list: &Value, headings: &[&str], row: impl Fn(&Value) -> Vec<String>, nowrap: bool) {
    let rows: Vec<Vec<String>> = list.as_array().into_iter().flatten().map(row).collect();
    // The original prints nothing at all for an empty list.
    if !rows.is_empty() {
        pretty::print(headings, &rows, if nowrap { pretty::Wrap::No } else { pretty::Wrap::Terminal });
    }
}

/// `field=value;field2>=type::value` as the API's parallel parameters.
fn conditions(query: &str) -> Result<String> {
    let mut parameters = String::new();
    for part in query.split(';').filter(|p| !p.trim().is_empty()) {
        let operators = [("!=", "ne"), ("<=", "le"), (">=", "ge"), ("<", "lt"), (">", "gt"), ("=", "eq")];
        let found = operators
            .iter()
            .filter_map(|(sign, name)| part.find(sign).map(|at| (at, *sign, *name)))
            .min_by_key(|(at, sign, _)| (*at, 2 - sign.len()));
        let (at, sign, operator) = found.ok_or_else(|| anyhow!("`{part}` is no condition: use FIELD=VALUE, or != < <= > >="))?;
        let (field, value) = (part[..at].trim(), part[at + sign.len()..].trim());
        let (kind, value) = value.split_once("::").unwrap_or(("", value));
        let encode = http_api::query::encode;
        parameters.push_str(&format!("&q.field={}&q.op={operator}&q.type={}&q.value={}", encode(field), encode(kind), encode(value)));
    }
    Ok(parameters)
}

async fn suppressions(cloud: &Client) -> Result<Vec<Value>> {
    Ok(cloud.get(KIND, "/v1/event_suppression?limit=2000").await?["event_suppression"].as_array().cloned().unwrap_or_default())
}

async fn suppressions_print(cloud: &Client, all: bool, uuid: bool) -> Result<()> {
    let list: Vec<Value> = suppressions(cloud).await?.into_iter().filter(|s| all || s["suppression_status"] == "suppressed").collect();
    let headings: &[&str] = if uuid { &["UUID", "Event ID", "Status"] } else { &["Event ID", "Status"] };
    let keys: &[&str] = if uuid { &["uuid", "alarm_id", "suppression_status"] } else { &["alarm_id", "suppression_status"] };
    print_list(&Value::Array(list), headings, |s| keys.iter().map(|key| text(&s[*key])).collect(), false);
    Ok(())
}

async fn change(cloud: &Client, entry: &Value, status: &str) -> Result<()> {
    let body = json!([{"path": "/suppression_status", "value": status, "op": "replace"}]);
    cloud.call(Method::PATCH, KIND, &format!("/v1/event_suppression/{}", text(&entry["uuid"])), Some(&body)).await?;
    println!("Alarm ID: {} {status}.", text(&entry["alarm_id"]));
    Ok(())
}

impl Suppress {
    async fn run(self, cloud: &Client, status: &str) -> Result<()> {
        if !confirmed(self.yes)? {
            return Ok(());
        }
        let known: HashMap<String, Value> = suppressions(cloud).await?.into_iter().map(|s| (text(&s["alarm_id"]), s)).collect();
        let ids: Vec<&str> = self.alarm_id.split(',').map(str::trim).filter(|id| !id.is_empty()).collect();
        if let Some(id) = ids.iter().find(|id| !known.contains_key(**id)) {
            bail!("there is no alarm id {id}; see fm event-suppress-list --include-unsuppressed");
        }
        for id in ids {
            change(cloud, &known[id], status).await?;
        }
        suppressions_print(cloud, false, self.uuid).await
    }
}

/// Asks only where CLI_CONFIRMATIONS=enabled wants that.
fn confirmed(yes: bool) -> Result<bool> {
    if yes || std::env::var("CLI_CONFIRMATIONS").is_ok_and(|v| v != "enabled") || std::env::var("CLI_CONFIRMATIONS").is_err() {
        return Ok(true);
    }
    eprint!("Type 'yes' to go on: ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

#[cfg(test)]
mod tests {
    use super::conditions;

    #[test]
    fn queries_become_parallel_parameters() {
        let encoded = conditions("severity>=major;start=datetime::2026-01-01 10:00").unwrap();
        assert_eq!(
            encoded,
            "&q.field=severity&q.op=ge&q.type=&q.value=major&q.field=start&q.op=eq&q.type=datetime&q.value=2026-01-01%2010%3A00"
        );
        assert!(conditions("severity").is_err());
    }
}
