//! `sturnus init`: makes this machine the first one of a cloud that others can join.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::Place;

#[derive(Args)]
pub struct Init {
    /// Address of this machine by which clients and other machines reach it
    #[arg(long)]
    address: IpAddr,
    /// Port of the API
    #[arg(long, default_value_t = 5000)]
    port: u16,
    /// Port where other machines' hosts open their sessions
    #[arg(long, default_value_t = 5001)]
    hosts_port: u16,
    /// Name of this machine in the cloud [default: the system's host name]
    #[arg(long)]
    name: Option<String>,
}

impl Init {
    pub fn run(self, place: &Place) -> Result<ExitCode> {
        let path = place.file()?;
        if path.exists() {
            bail!("{} is there already: set `listen` and `hosts.listen` in it by hand, or take another --home", path.display());
        }
        if self.address.is_loopback() || self.address.is_unspecified() {
            bail!("--address {}: no other machine reaches this one by it", self.address);
        }
        let at = |port: u16| std::net::SocketAddr::new(self.address, port);
        let mut text = format!("listen = \"{}\"\n\n[hosts]\nlisten = \"{}\"\n", at(self.port), at(self.hosts_port));
        if let Some(name) = &self.name {
            inventory::hostname_check(name).map_err(|e| anyhow::anyhow!("--name: {}", e.message()))?;
            text.push_str(&format!("\n[host]\nname = \"{name}\"\n"));
        }
        super::write_config(&path, &text).with_context(|| path.display().to_string())?;
        println!("{} says where this cloud serves. Now start it, and let other machines in:", path.display());
        println!("  sturnus up --daemon");
        println!("  sturnus host token        prints the command that another machine joins with");
        Ok(ExitCode::SUCCESS)
    }
}
