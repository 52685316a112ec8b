//! `sturnus config`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::Place;

#[derive(Args)]
pub struct Show {
    /// Describe every key, its default and its environment variable
    #[arg(long)]
    document: bool,
}

impl Show {
    pub fn run(self, place: &Place) -> Result<ExitCode> {
        if self.document {
            for key in base::config::KEYS {
                println!("# {}\n# Environment: {}\n{} = \"{}\"\n", key.help, base::config::env_name(key.name), key.name, key.default);
            }
            return Ok(ExitCode::SUCCESS);
        }
        for (key, value) in place.load()?.entries() {
            println!("{} = \"{value}\"", key.name);
        }
        Ok(ExitCode::SUCCESS)
    }
}
