//! `sturnus doctor`: the leak check, and whether allocations and servers agree.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::Place;

/// Takes stock of everything on this machine that a host may have made.
#[derive(Args)]
pub struct Doctor {
    /// List everything, not only what is wrong
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Fails when something is stale or contradictory.
    pub fn run(self, place: &Place) -> Result<ExitCode> {
        let home = place.load()?.home();
        let report = leak::take_stock(&home)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else if self.all {
            print!("{report}");
        } else {
            let found: Vec<&leak::Item> = report.findings().collect();
            for item in &found {
                println!("{:?} {:?} {}: {}", item.verdict, item.kind, item.name, item.why);
            }
            println!("{} things of this cloud on this machine, {} of them wrong", report.items.len(), found.len());
        }
        Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
