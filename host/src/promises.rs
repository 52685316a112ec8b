//! What the configuration says this machine may promise to ports.

use base::{Config, Error, Result};
use rpc::message::{Bandwidth, PacketRates};

/// A setting, and an entry of it as messages name it.
fn wrong(setting: &str, entry: &str, why: &str) -> Error {
    Error::invalid(format!("`{setting}`: `{entry}` {why}"))
}

/// An amount that is not told is 0.
fn amount(setting: &str, entry: &str, text: &str) -> Result<u64> {
    match text {
        "" => Ok(0),
        text => text.parse::<u32>().map(u64::from).map_err(|_| wrong(setting, entry, "has an amount that is none")),
    }
}

/// The bandwidth of each network. `Invalid` when it cannot be read.
pub fn bandwidths(config: &Config) -> Result<Vec<Bandwidth>> {
    const NAME: &str = "host.resource_provider_bandwidths";
    let mut found: Vec<Bandwidth> = Vec::new();
    for entry in config.text(NAME).split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let [network, egress, ingress] = entry.split(':').collect::<Vec<_>>()[..] else {
            return Err(wrong(NAME, entry, "is not NETWORK:EGRESS:INGRESS"));
        };
        if network.is_empty() || found.iter().any(|known| known.network == network) {
            return Err(wrong(NAME, entry, "names no network, or one that was named before"));
        }
        let (egress, ingress) = (amount(NAME, entry, egress)?, amount(NAME, entry, ingress)?);
        found.push(Bandwidth { network: network.to_string(), egress, ingress });
    }
    Ok(found)
}

/// The packets that the machine of this name works on, in one amount or by direction. `Invalid` when it cannot be read.
pub fn packet_rates(config: &Config, name: &str) -> Result<PacketRates> {
    const NAME: &str = "host.resource_provider_packet_processing";
    let entry = config.text(NAME).trim();
    let read = |text: &str| amount(NAME, entry, text);
    let (of, rates) = match entry.split(':').collect::<Vec<_>>()[..] {
        [""] => return Ok(PacketRates::default()),
        [of, any] => (of, PacketRates { any: read(any)?, ..PacketRates::default() }),
        [of, egress, ingress] => (of, PacketRates { egress: read(egress)?, ingress: read(ingress)?, ..PacketRates::default() }),
        _ => return Err(wrong(NAME, entry, "is neither HOST:RATE nor HOST:EGRESS:INGRESS")),
    };
    if !of.is_empty() && of != name {
        return Err(wrong(NAME, entry, "names another machine"));
    }
    Ok(rates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &'static str, text: &str) -> Config {
        let mut config = Config::for_home(std::path::Path::new("/nowhere"));
        config.set(name, text);
        config
    }

    #[test]
    fn reads_the_bandwidth_that_may_be_promised() {
        let read = |text: &str| bandwidths(&config("host.resource_provider_bandwidths", text));
        let wire = |network: &str, egress, ingress| Bandwidth { network: network.into(), egress, ingress };
        assert_eq!(read("").unwrap(), []);
        assert_eq!(read("public:10:20, rp_tunnelled::5").unwrap(), [wire("public", 10, 20), wire("rp_tunnelled", 0, 5)]);
        for wrong in ["public", "public:1", "public:1:2:3", ":1:2", "public:x:1", "public:-1:1", "a:1:1,a:2:2", "a:1:99999999999"] {
            assert!(read(wrong).unwrap_err().message().contains("resource_provider_bandwidths"), "{wrong}");
        }
    }

    #[test]
    fn reads_the_packet_rates_that_may_be_promised() {
        let read = |text: &str| packet_rates(&config("host.resource_provider_packet_processing", text), "compute-1");
        let rates = |any, egress, ingress| PacketRates { any, egress, ingress };
        for (text, wanted) in [
            ("", rates(0, 0, 0)),
            (":100", rates(100, 0, 0)),
            ("compute-1:100", rates(100, 0, 0)),
            (":10:20", rates(0, 10, 20)),
            ("compute-1:10:", rates(0, 10, 0)),
        ] {
            assert_eq!(read(text).unwrap(), wanted, "{text}");
        }
        for wrong in ["100", "compute-2:100", ":x", ":-1", ":1:2:3", ":1,:2", ":99999999999"] {
            assert!(read(wrong).unwrap_err().message().contains("resource_provider_packet_processing"), "{wrong}");
        }
    }
}
