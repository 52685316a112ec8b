//! Where a BMC is.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use base::{Error, Result};

/// An IP address, and a port where it is not the usual one (443 for Redfish, 623 for IPMI), as behind a forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub ip: IpAddr,
    pub port: Option<u16>,
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Address> {
        let whole = text.parse::<SocketAddr>().map(|at| Address { ip: at.ip(), port: Some(at.port()) });
        let address = text.parse::<IpAddr>().map(|ip| Address { ip, port: None }).or(whole);
        match address {
            Ok(address) if !address.ip.is_unspecified() && !address.ip.is_multicast() && address.port != Some(0) => Ok(address),
            _ => Err(Error::invalid(format!("'{text}' is not the address of a BMC"))),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for good in ["10.0.0.5", "10.0.0.5:6230", "fd00::5", "[fd00::5]:443"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for bad in ["", "0.0.0.0", "::", "224.0.0.1", "bmc.example", "10.0.0.5:0", "10.0.0.5 -x", "-x"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
