//! `sturnus policy`: what the rules are, and what they decide.

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use base::{Context, Scope};
use clap::{Args, Subcommand, ValueEnum};

use super::{Place, table};

#[derive(Subcommand)]
pub enum Policy {
    /// List every rule with the check in force; overridden ones are marked with *
    List {
        /// Only rules of this service type
        #[arg(long)]
        service: Option<String>,
    },
    /// Say whether a caller may do what a rule guards, and which part of the rule decided
    Check(Check),
    /// Print a policy.yaml with every default, commented out
    Sample,
}

#[derive(Args)]
pub struct Check {
    /// Rule, for example os_compute_api:servers:create
    rule: String,
    /// Service type, when several have a rule of this name
    #[arg(long)]
    service: Option<String>,
    /// Role of the caller (repeatable)
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    #[arg(long, default_value = "user")]
    user: String,
    /// Scope of the caller's token
    #[arg(long, value_enum, default_value = "project")]
    scope: ScopeName,
    /// Project or domain of the token
    #[arg(long, default_value = "project")]
    scope_id: String,
    /// Attribute of what is acted on, as name=value (repeatable)
    #[arg(long = "target", value_name = "NAME=VALUE")]
    target: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScopeName {
    Project,
    Domain,
    System,
    Unscoped,
}

impl Policy {
    pub fn run(self, place: &Place) -> Result<ExitCode> {
        let policy = crate::cloud::policy(&place.load()?)?.current();
        match self {
            Policy::List { service } => {
                let rows = policy.list().into_iter().filter(|r| service.as_deref().is_none_or(|s| s == r.service));
                let cells =
                    rows.map(|r| vec![r.service.to_string(), format!("{}{}", r.name, if r.overridden { " *" } else { "" }), r.effective]);
                table::print(&["Service", "Rule", "Check"], &cells.collect::<Vec<_>>());
                for problem in policy.problems() {
                    eprintln!("warning: {problem}");
                }
                Ok(ExitCode::SUCCESS)
            }
            Policy::Sample => {
                print!("{}", policy.sample());
                Ok(ExitCode::SUCCESS)
            }
            Policy::Check(check) => check.run(&policy),
        }
    }
}

impl Check {
    fn run(self, policy: &policy::Enforcer) -> Result<ExitCode> {
        let scope = match self.scope {
            ScopeName::Project => {
                Scope::Project { id: self.scope_id, name: String::new(), domain_id: "default".into(), domain_name: "Default".into() }
            }
            ScopeName::Domain => Scope::Domain { id: self.scope_id, name: String::new() },
            ScopeName::System => Scope::System,
            ScopeName::Unscoped => Scope::Unscoped,
        };
        let ctx = Context { user_id: self.user, scope, roles: self.roles.iter().map(|r| r.to_lowercase()).collect(), ..Context::default() };
        let mut target = serde_json::Map::new();
        for pair in &self.target {
            let (name, value) = pair.split_once('=').ok_or_else(|| anyhow!("--target takes NAME=VALUE, not `{pair}`"))?;
            target.insert(name.to_string(), value.into());
        }
        let verdicts = policy.explain(self.service.as_deref(), &self.rule, &ctx, &serde_json::Value::Object(target));
        if verdicts.is_empty() {
            bail!("no service has a rule `{}`; see `sturnus policy list`", self.rule);
        }
        for verdict in &verdicts {
            for line in verdict.lines() {
                println!("{line}");
            }
        }
        Ok(if verdicts.iter().all(|v| v.allowed) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
