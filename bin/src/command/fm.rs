//! `sturnus fm`, also called as `fm`: StarlingX's fault command, with its verbs, options and tables.

use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::{Args, CommandFactory, Parser, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Place, pretty};
use crate::client::{Client, Login, encoded};

/// Command-line interface to the alarms and events of a cloud.
#[derive(Parser)]
#[command(name = "fm", version, propagate_version = true)]
pub struct Alone {
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub command: Command,
}

#[derive(Args)]
pub struct Command {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    verb: Fm,
}

/// Where the cloud is and who asks, as the original's clients say it: over `OS_*` of the environment, or the openrc in the home.
#[derive(Args)]
struct Options {
    /// Tell of every call to the API
    #[arg(long, env = "FMCLIENT_DEBUG", value_parser = clap::builder::FalseyValueParser::new())]
    debug: bool,
    /// Print more
    #[arg(short, long)]
    verbose: bool,
    /// Seconds to wait for an answer
    #[arg(long, default_value = "600", value_name = "SECONDS")]
    timeout: u64,
    #[arg(long, alias = "os_username", value_name = "NAME")]
    os_username: Option<String>,
    #[arg(long, alias = "os_password", value_name = "PASSWORD")]
    os_password: Option<String>,
    /// The project's older name
    #[arg(long, alias = "os_tenant_id", value_name = "ID")]
    os_tenant_id: Option<String>,
    #[arg(long, alias = "os_tenant_name", value_name = "NAME")]
    os_tenant_name: Option<String>,
    #[arg(long, alias = "os_project_id", value_name = "ID")]
    os_project_id: Option<String>,
    #[arg(long, alias = "os_project_name", value_name = "NAME")]
    os_project_name: Option<String>,
    #[arg(long, alias = "os_user_domain_id", value_name = "ID")]
    os_user_domain_id: Option<String>,
    #[arg(long, alias = "os_user_domain_name", value_name = "NAME")]
    os_user_domain_name: Option<String>,
    #[arg(long, alias = "os_project_domain_id", value_name = "ID")]
    os_project_domain_id: Option<String>,
    #[arg(long, alias = "os_project_domain_name", value_name = "NAME")]
    os_project_domain_name: Option<String>,
    #[arg(long, alias = "os_auth_url", value_name = "URL")]
    os_auth_url: Option<String>,
    #[arg(long, alias = "os_region_name", value_name = "REGION")]
    os_region_name: Option<String>,
    /// A token that is there already
    #[arg(long, alias = "os_auth_token", env = "OS_AUTH_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    os_auth_token: Option<String>,
    /// Where the fault API is, whatever the catalogue says
    #[arg(long, alias = "fm_url", env = "FM_URL", value_name = "URL")]
    fm_url: Option<String>,
    #[arg(long, alias = "fm_api_version", env = "FM_API_VERSION", value_name = "VERSION", default_value = "1")]
    fm_api_version: String,
    #[arg(long, alias = "os_service_type", env = "OS_SERVICE_TYPE", value_name = "TYPE", default_value = "faultmanagement")]
    os_service_type: String,
    #[arg(long, alias = "os_endpoint_type", value_name = "TYPE")]
    os_endpoint_type: Option<String>,
    /// Take the API's certificate as it comes
    #[arg(long, env = "FMCLIENT_INSECURE", value_parser = clap::builder::FalseyValueParser::new())]
    insecure: bool,
    /// Accepted for old scripts: nothing is cached
    #[arg(long)]
    refresh_cache: bool,
    /// Accepted for old scripts: nothing is cached
    #[arg(long, env = "FMCLIENT_NO_CACHE", value_parser = clap::builder::FalseyValueParser::new())]
    no_cache: bool,
    /// How to log in: keystone (oidc is not there)
    #[arg(long, env = "STX_AUTH_TYPE", default_value = "keystone", value_parser = ["keystone", "oidc"])]
    stx_auth_type: String,
}

impl Options {
    fn login(self) -> Result<(String, Login)> {
        if self.stx_auth_type == "oidc" {
            bail!("there is no login by OIDC: use --stx-auth-type keystone");
        }
        if self.fm_api_version != "1" {
            bail!("there is no version {} of the fault API", self.fm_api_version);
        }
        let kind = self.os_service_type;
        let given = [
            ("OS_USERNAME", self.os_username),
            ("OS_PASSWORD", self.os_password),
            ("OS_PROJECT_ID", self.os_project_id.or(self.os_tenant_id)),
            ("OS_PROJECT_NAME", self.os_project_name.or(self.os_tenant_name)),
            ("OS_USER_DOMAIN_ID", self.os_user_domain_id),
            ("OS_USER_DOMAIN_NAME", self.os_user_domain_name),
            ("OS_PROJECT_DOMAIN_ID", self.os_project_domain_id),
            ("OS_PROJECT_DOMAIN_NAME", self.os_project_domain_name),
            ("OS_AUTH_URL", self.os_auth_url),
            ("OS_REGION_NAME", self.os_region_name),
            ("OS_AUTH_TOKEN", self.os_auth_token),
            ("OS_ENDPOINT_TYPE", self.os_endpoint_type),
        ];
        let login = Login {
            settings: given.into_iter().filter_map(|(name, value)| Some((name, value.filter(|v| !v.is_empty())?))).collect(),
            timeout: Duration::from_secs(self.timeout),
            insecure: self.insecure,
            debug: self.debug,
            // It may name the version too, as a catalogue does.
            endpoint: self.fm_url.map(|url| (kind.clone(), url.trim_end_matches('/').trim_end_matches("/v1").to_string())),
        };
        Ok((kind, login))
    }
}

/// A session with the fault API.
struct Session {
    cloud: Client,
    kind: String,
}

impl Session {
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        self.cloud.call(method, &self.kind, path, body).await
    }
    async fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, None).await
    }
}

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
        /// UUID of the alarm
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
    /// Keep alarms of these ids, or of these entities, out of lists
    EventSuppress(Suppress),
    /// Show alarms of these ids, or of these entities, in lists again
    EventUnsuppress(Unsuppress),
    /// Show alarms of all ids and entities in lists again
    EventUnsuppressAll {
        /// Do not ask, whatever CLI_CONFIRMATIONS says
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        shown: Shown,
    },
    /// List suppressed alarm ids, and entities
    EventSuppressList {
        /// List all ids
        #[arg(long = "include-unsuppressed")]
        include_unsuppressed: bool,
        #[command(flatten)]
        shown: Shown,
    },
    /// Print the completion script of a shell
    Completion { shell: clap_complete::Shell },
}

/// How a list is printed.
#[derive(Args)]
pub struct Shown {
    /// Show UUIDs
    #[arg(long)]
    uuid: bool,
    /// Print all at once, not a screen at a time
    #[arg(long)]
    nopaging: bool,
    /// Do not wrap long texts
    #[arg(long)]
    nowrap: bool,
}

impl Shown {
    fn whole() -> Shown {
        Shown { uuid: false, nopaging: true, nowrap: false }
    }
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
    /// Show suppressed alarms too
    #[arg(long = "include_suppress")]
    include_suppress: bool,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Args)]
pub struct Suppress {
    #[command(flatten)]
    ids: Unsuppress,
    /// Why; with --entity
    #[arg(long, requires = "entity", value_name = "TEXT")]
    comment: Option<String>,
    /// Until when, in UTC; with --entity
    #[arg(long, requires = "entity", value_name = "TIME", conflicts_with = "minutes")]
    expires: Option<String>,
    /// For how long from now; with --entity
    #[arg(long, requires = "entity", value_name = "NUMBER")]
    minutes: Option<u32>,
}

#[derive(Args)]
pub struct Unsuppress {
    /// Alarm ids, separated by commas
    #[arg(long = "alarm_id", value_name = "ID,...", required_unless_present = "entity")]
    alarm_id: Option<String>,
    /// Only alarms of entities like this one and of what lies below them: `*` stands for any text
    #[arg(long, value_name = "PATTERN")]
    entity: Option<String>,
    /// Do not ask, whatever CLI_CONFIRMATIONS says
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    shown: Shown,
}

impl Command {
    pub async fn run(self, place: &Place) -> Result<ExitCode> {
        let verb = match self.verb {
            Fm::Completion { shell } => {
                clap_complete::generate(shell, &mut Alone::command(), "fm", &mut std::io::stdout());
                return Ok(ExitCode::SUCCESS);
            }
            verb => verb,
        };
        if let Some(false) = verb.confirmed()? {
            println!("Operation cancelled by the user.");
            return Ok(ExitCode::FAILURE);
        }
        let (kind, login) = self.options.login()?;
        let session = Session { cloud: Client::login_with(&place.load()?.home(), login).await?, kind };
        verb.run(&session).await?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Fm {
    async fn run(self, cloud: &Session) -> Result<()> {
        match self {
            Fm::AlarmList(list) => list.run(cloud).await?,
            Fm::EventList(list) => list.run(cloud).await?,
            Fm::AlarmShow { uuid } => show(cloud, &format!("/v1/alarms/{}", encoded(&uuid)), ALARM).await?,
            Fm::EventShow { uuid } => show(cloud, &format!("/v1/event_log/{}", encoded(&uuid)), EVENT).await?,
            Fm::AlarmDelete { uuid, .. } => {
                cloud.call(Method::DELETE, &format!("/v1/alarms/{}", encoded(&uuid)), None).await?;
            }
            Fm::AlarmSummary { include_suppress } => {
                let counts = cloud.get(&format!("/v1/alarms/summary?include_suppress={include_suppress}")).await?;
                let row = ["critical", "major", "minor", "warnings"].map(|key| counts[key].to_string());
                pretty::print(&["Critical Alarms", "Major Alarms", "Minor Alarms", "Warnings"], &[row.to_vec()], pretty::Wrap::No);
            }
            Fm::EventSuppress(wanted) => wanted.run(cloud).await?,
            Fm::EventUnsuppress(ids) => ids.run(cloud).await?,
            Fm::EventUnsuppressAll { shown, .. } => {
                for entry in suppressions(cloud).await?.into_iter().filter(|s| s["suppression_status"] == "suppressed") {
                    change(cloud, &entry, "unsuppressed").await?;
                }
                for entry in entities(cloud).await? {
                    entity_end(cloud, &entry).await?;
                }
                suppressions_print(cloud, false, &shown).await?;
            }
            Fm::EventSuppressList { include_unsuppressed, shown } => suppressions_print(cloud, include_unsuppressed, &shown).await?,
            Fm::Completion { .. } => {}
        }
        Ok(())
    }

    /// What its user says to a verb that takes something away; none when he is not asked.
    fn confirmed(&self) -> Result<Option<bool>> {
        let yes = match self {
            Fm::AlarmDelete { yes, .. } | Fm::EventUnsuppressAll { yes, .. } => *yes,
            Fm::EventSuppress(wanted) => wanted.ids.yes,
            Fm::EventUnsuppress(ids) => ids.yes,
            _ => true,
        };
        // Asks only where this wants it.
        if yes || std::env::var("CLI_CONFIRMATIONS").as_deref() != Ok("enabled") {
            return Ok(None);
        }
        println!("WARNING: This is a high-risk operation that may cause a service interruption or remove critical resources");
        print!("Do you want to continue? (yes/No): ");
        std::io::stdout().flush()?;
        let (say, said) = std::sync::mpsc::channel();
        // Nobody waits for this thread: a line that never comes must not hold up the end of the command.
        std::thread::spawn(move || {
            let mut answer = String::new();
            let read = std::io::stdin().read_line(&mut answer);
            let _ = say.send(read.map(|_| answer));
        });
        match said.recv_timeout(ANSWER) {
            Ok(answer) => Ok(Some(answer?.trim().eq_ignore_ascii_case("yes"))),
            Err(_) => bail!("no answer within {} seconds", ANSWER.as_secs()),
        }
    }
}

/// How long a question waits for its answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Properties of a whole alarm.
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

async fn show(cloud: &Session, path: &str, properties: &[&'static str]) -> Result<()> {
    let record = cloud.get(path).await?;
    pretty::print_properties(properties.iter().map(|p| (*p, text(&record[*p]))).collect());
    Ok(())
}

impl AlarmList {
    async fn run(self, cloud: &Session) -> Result<()> {
        let mut path = format!("/v1/alarms?limit=2000&sort_key=timestamp&sort_dir=desc&include_suppress={}", self.include_suppress);
        if let Some(query) = &self.query {
            path.push_str(&conditions(query)?);
        }
        let list = pages(cloud, path, "alarms", None).await?;
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
        print_list(
            &list,
            &headings,
            |alarm| keys.iter().map(|key| cell(alarm, key)).collect(),
            &Shown { nowrap: self.nowrap, ..Shown::whole() },
        )
    }
}

impl EventList {
    async fn run(self, cloud: &Session) -> Result<()> {
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
        let list = pages(cloud, path, "event_log", self.limit).await?;
        let mut headings = vec!["Time Stamp", "State", "Event Log ID", "Reason Text", "Entity Instance ID", "Severity"];
        let mut keys = vec!["timestamp", "state", "event_log_id", "reason_text", "entity_instance_id", "severity"];
        if self.shown.uuid {
            headings.insert(0, "UUID");
            keys.insert(0, "uuid");
        }
        let cell = |event: &Value, key: &&str| match *key {
            "event_log_id" if event["suppression_status"] == "suppressed" => format!("S({})", text(&event["event_log_id"])),
            key => text(&event[key]),
        };
        print_list(&list, &headings, |event| keys.iter().map(|key| cell(event, key)).collect(), &self.shown)
    }
}

/// A list of all its pages, or of no more than this.
async fn pages(cloud: &Session, first: String, key: &str, most: Option<u32>) -> Result<Vec<Value>> {
    let mut list = Vec::new();
    let mut path = first.clone();
    loop {
        let mut body = cloud.get(&path).await?;
        let Value::Array(page) = body[key].take() else { bail!("the answer has no {key}") };
        list.extend(page);
        let enough = most.is_some_and(|most| list.len() >= most as usize);
        match list.last().map(|last| text(&last["uuid"])) {
            Some(last) if body["next"].is_string() && !enough => path = format!("{first}&marker={}", encoded(&last)),
            _ => return Ok(list),
        }
    }
}

fn print_list(list: &[Value], headings: &[&str], row: impl Fn(&Value) -> Vec<String>, shown: &Shown) -> Result<()> {
    let rows: Vec<Vec<String>> = list.iter().map(row).collect();
    let wrap = if shown.nowrap { pretty::Wrap::No } else { pretty::Wrap::Terminal };
    // The original prints no table for an empty list.
    match (rows.is_empty(), shown.nopaging) {
        (true, _) => {}
        (_, true) => pretty::print(headings, &rows, wrap),
        (_, false) => pretty::print_paged(headings, &rows, wrap)?,
    }
    Ok(())
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

async fn suppressions(cloud: &Session) -> Result<Vec<Value>> {
    Ok(cloud.get("/v1/event_suppression?limit=2000").await?["event_suppression"].as_array().cloned().unwrap_or_default())
}

async fn suppressions_print(cloud: &Session, all: bool, shown: &Shown) -> Result<()> {
    let list: Vec<Value> = suppressions(cloud).await?.into_iter().filter(|s| all || s["suppression_status"] == "suppressed").collect();
    let headings: &[&str] = if shown.uuid { &["UUID", "Event ID", "Status"] } else { &["Event ID", "Status"] };
    let keys: &[&str] = if shown.uuid { &["uuid", "alarm_id", "suppression_status"] } else { &["alarm_id", "suppression_status"] };
    print_list(&list, headings, |s| keys.iter().map(|key| text(&s[*key])).collect(), shown)?;
    entities_print(cloud, shown).await
}

/// Suppressions by entity.
async fn entities(cloud: &Session) -> Result<Vec<Value>> {
    Ok(cloud.get("/v1/entity_suppression?limit=2000").await?["entity_suppression"].as_array().cloned().unwrap_or_default())
}

/// A table of its own, behind the one that scripts read.
async fn entities_print(cloud: &Session, shown: &Shown) -> Result<()> {
    let mut headings = vec!["Entity", "Event ID", "Owner", "Comment", "Expires"];
    let mut keys = vec!["entity_pattern", "alarm_id", "owner", "comment", "expires_at"];
    if shown.uuid {
        headings.insert(0, "UUID");
        keys.insert(0, "uuid");
    }
    let cell = |entry: &Value, key: &str| match (key, &entry[key]) {
        ("alarm_id", Value::Null) => "all".into(),
        ("expires_at", Value::Null) => "never".into(),
        (_, value) => text(value),
    };
    print_list(&entities(cloud).await?, &headings, |entry| keys.iter().map(|key| cell(entry, key)).collect(), shown)
}

/// How the user is told of a suppression by entity.
fn entity_named(entry: &Value) -> String {
    match &entry["alarm_id"] {
        Value::Null => format!("Entity: {}", text(&entry["entity_pattern"])),
        id => format!("Entity: {} Alarm ID: {}", text(&entry["entity_pattern"]), text(id)),
    }
}

async fn entity_end(cloud: &Session, entry: &Value) -> Result<()> {
    cloud.call(Method::DELETE, &format!("/v1/entity_suppression/{}", encoded(&text(&entry["uuid"]))), None).await?;
    println!("{} unsuppressed.", entity_named(entry));
    Ok(())
}

async fn change(cloud: &Session, entry: &Value, status: &str) -> Result<()> {
    let body = json!([{"path": "/suppression_status", "value": status, "op": "replace"}]);
    cloud.call(Method::PATCH, &format!("/v1/event_suppression/{}", text(&entry["uuid"])), Some(&body)).await?;
    println!("Alarm ID: {} {status}.", text(&entry["alarm_id"]));
    Ok(())
}

impl Suppress {
    async fn run(self, cloud: &Session) -> Result<()> {
        let Some(entity) = &self.ids.entity else { return self.ids.change(cloud, "suppressed").await };
        let lasting = self.minutes.map(|minutes| Duration::from_secs(u64::from(minutes) * 60));
        let expires = self.expires.or_else(|| lasting.map(|span| base::Timestamp::now().plus(span).iso_micros()));
        let comment = self.comment.unwrap_or_default();
        let ids: Vec<Option<&str>> = match self.ids.ids()? {
            // Those of every id.
            None => vec![None],
            Some(ids) => ids.into_iter().map(Some).collect(),
        };
        for id in ids {
            let body = json!({"entity_pattern": entity, "alarm_id": id, "comment": comment, "expires_at": expires});
            let made = cloud.call(Method::POST, "/v1/entity_suppression", Some(&body)).await?;
            println!("{} suppressed.", entity_named(&made));
        }
        suppressions_print(cloud, false, &self.ids.shown).await
    }
}

impl Unsuppress {
    /// None when no ids are asked for at all.
    fn ids(&self) -> Result<Option<Vec<&str>>> {
        let Some(list) = &self.alarm_id else { return Ok(None) };
        let ids: Vec<&str> = list.split(',').map(str::trim).filter(|id| !id.is_empty()).collect();
        if ids.is_empty() {
            bail!("--alarm_id names no alarm id");
        }
        Ok(Some(ids))
    }

    async fn run(self, cloud: &Session) -> Result<()> {
        let Some(entity) = &self.entity else { return self.change(cloud, "unsuppressed").await };
        let ids = self.ids()?;
        // Without ids, all suppressions of the entity end, whatever ids they are for.
        let meant = |entry: &Value| {
            let fits = |ids: &Vec<&str>| ids.iter().any(|id| entry["alarm_id"] == *id);
            entry["entity_pattern"] == entity.as_str() && ids.as_ref().is_none_or(fits)
        };
        let ending: Vec<Value> = entities(cloud).await?.into_iter().filter(meant).collect();
        if ending.is_empty() {
            bail!("nothing is suppressed by the entity {entity}; see fm event-suppress-list");
        }
        for entry in &ending {
            entity_end(cloud, entry).await?;
        }
        suppressions_print(cloud, false, &self.shown).await
    }

    /// Changes whole ids.
    async fn change(&self, cloud: &Session, status: &str) -> Result<()> {
        let known: HashMap<String, Value> = suppressions(cloud).await?.into_iter().map(|s| (text(&s["alarm_id"]), s)).collect();
        let ids = self.ids()?.unwrap_or_default();
        if let Some(id) = ids.iter().find(|id| !known.contains_key(**id)) {
            bail!("there is no alarm id {id}; see fm event-suppress-list --include-unsuppressed");
        }
        for id in ids {
            change(cloud, &known[id], status).await?;
        }
        suppressions_print(cloud, false, &self.shown).await
    }
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
