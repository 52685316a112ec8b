//! `sturnus guest`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use super::{Place, table};

#[derive(Subcommand)]
pub enum Guest {
    /// List the guests of this machine with their processes
    List,
}

impl Guest {
    pub fn run(self, place: &Place) -> Result<ExitCode> {
        let Guest::List = self;
        let guests = host::guests(&place.load()?.home())?;
        let rows: Vec<Vec<String>> =
            guests.into_iter().map(|g| vec![g.id, g.name, g.pid.map_or("-".into(), |pid| pid.to_string())]).collect();
        table::print(&["ID", "Name", "Process"], &rows);
        Ok(ExitCode::SUCCESS)
    }
}
