//! Content from elsewhere, by HTTP: whom users may let us ask, and asking nobody else.
//!
//! An address is checked as it is written, and again as what its name resolves to; the connection goes to the addresses that were
//! checked, and every redirection is checked anew. So no request reaches what only this machine can reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use base::{Config, Error, Result, error::Internal};
use futures_util::TryStreamExt;
use http_api::body::Upload;
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, StatusCode, Url};

const REDIRECTIONS: usize = 5;
const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may send nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// Which schemes, hosts and ports may be asked: of each the allowed ones if any are named, otherwise all but the disallowed ones.
#[derive(Clone, Debug)]
pub struct Sources {
    schemes: Filter,
    hosts: Filter,
    ports: Filter,
    /// Whether addresses may be asked that are not public.
    private: bool,
}

#[derive(Clone, Debug)]
struct Filter {
    allowed: Vec<String>,
    disallowed: Vec<String>,
}

impl Filter {
    fn of(config: &Config, allowed: &str, disallowed: &str) -> Filter {
        let list = |key: &str| {
            let words = config.text(key).split(',').map(|word| word.trim().trim_end_matches('.').to_ascii_lowercase());
            words.filter(|word| !word.is_empty()).collect()
        };
        Filter { allowed: list(allowed), disallowed: list(disallowed) }
    }
    fn passes(&self, word: &str) -> bool {
        let is = |words: &[String]| words.iter().any(|w| w == word);
        if self.allowed.is_empty() { !is(&self.disallowed) } else { is(&self.allowed) }
    }
    fn names(&self, word: &str) -> bool {
        self.allowed.iter().any(|w| w == word)
    }
}

impl Sources {
    pub fn of(config: &Config) -> Result<Sources> {
        let sources = Sources {
            schemes: Filter::of(config, "image.import_allowed_schemes", "image.import_disallowed_schemes"),
            hosts: Filter::of(config, "image.import_allowed_hosts", "image.import_disallowed_hosts"),
            ports: Filter::of(config, "image.import_allowed_ports", "image.import_disallowed_ports"),
            private: config.flag("image.import_private_addresses"),
        };
        let wrong = |port: &&String| port.parse::<u16>().is_err();
        match sources.ports.allowed.iter().chain(&sources.ports.disallowed).find(wrong) {
            Some(port) => Err(Error::invalid(format!("image.import_allowed_ports, image.import_disallowed_ports: `{port}` is no port"))),
            None => Ok(sources),
        }
    }

    /// The address as a URL, if it may be asked as far as can be told without asking.
    pub fn check(&self, text: &str) -> Result<Url> {
        let refused = || Error::invalid(format!("URI for web-download does not pass filtering: {text}"));
        let mut url = Url::parse(text).map_err(|_| refused())?;
        let host = host_of(&url).ok_or_else(refused)?;
        // The same name with and without a dot at its end would be two: one whose addresses were checked, and one that is asked.
        if url.host_str().is_some_and(|host| host.ends_with('.')) {
            url.set_host(Some(&host)).map_err(|_| refused())?;
        }
        let port = url.port_or_known_default().ok_or_else(refused)?;
        // Others cannot be spoken, whatever is configured.
        let spoken = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
        if !spoken || !self.schemes.passes(url.scheme()) || !self.hosts.passes(&host) || !self.ports.passes(&port.to_string()) {
            return Err(refused());
        }
        match address_of(&url) {
            Some(address) if !self.may_reach(&host, address) => Err(refused()),
            _ => Ok(url),
        }
    }

    /// A host that an administrator has named may have any address.
    fn may_reach(&self, host: &str, address: IpAddr) -> bool {
        self.private || self.hosts.names(host) || is_public(address)
    }

    /// The addresses of a checked URL; none of them may be one that is not to be asked.
    async fn addresses(&self, url: &Url) -> Result<Vec<SocketAddr>> {
        let host = host_of(url).unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or_default();
        if let Some(address) = address_of(url) {
            return Ok(vec![(address, port).into()]);
        }
        let found = tokio::time::timeout(CONNECT, tokio::net::lookup_host((host.as_str(), port))).await;
        let unknown = || Error::unavailable(format!("The name {host} cannot be resolved."));
        let found: Vec<SocketAddr> = found.map_err(|_| unknown())?.map_err(|error| unknown().caused_by(error))?.collect();
        match found.iter().find(|address| !self.may_reach(&host, address.ip())) {
            Some(_) => Err(Error::invalid(format!("{host} has an address that may not be asked for content."))),
            None if found.is_empty() => Err(unknown()),
            None => Ok(found),
        }
    }

    /// Asks for content. At most `max` bytes are announced.
    pub async fn get(&self, text: &str, max: u64) -> Result<Upload> {
        let (url, answer) = self.follow(Method::GET, text, None).await?;
        fine(&url, answer.status())?;
        if announced(&answer).is_some_and(|size| size > max) {
            return Err(crate::content::too_large(max));
        }
        Ok(body(answer))
    }

    /// How many bytes there are at an address.
    pub async fn size(&self, text: &str) -> Result<u64> {
        let (url, answer) = self.follow(Method::HEAD, text, None).await?;
        fine(&url, answer.status())?;
        announced(&answer).filter(|size| *size > 0).ok_or_else(|| Error::invalid(format!("{url} does not say how much content it has.")))
    }

    /// Asks for `length` bytes from `start` of content that has `size`. The other value is how many come before those that were
    /// asked for: a server need not know of ranges.
    pub async fn part(&self, text: &str, size: u64, start: u64, length: u64) -> Result<(Upload, u64)> {
        let range = (length < size).then(|| format!("bytes={start}-{}", start + length.saturating_sub(1)));
        let (url, answer) = self.follow(Method::GET, text, range.as_deref()).await?;
        let other = || Error::unavailable(format!("{url} has other content than it had."));
        if range.is_some() && answer.status() == StatusCode::PARTIAL_CONTENT {
            let given = answer.headers().get("content-range").and_then(|given| given.to_str().ok());
            let wanted = format!("bytes {start}-{}/{size}", start + length.saturating_sub(1));
            return if given == Some(wanted.as_str()) { Ok((body(answer), 0)) } else { Err(other()) };
        }
        fine(&url, answer.status())?;
        if announced(&answer).is_some_and(|announced| announced != size) {
            return Err(other());
        }
        Ok((body(answer), start))
    }

    /// Asks, and goes where the answers lead; the last address and what it answers.
    async fn follow(&self, method: Method, text: &str, range: Option<&str>) -> Result<(Url, Response)> {
        let mut url = self.check(text)?;
        for _ in 0..=REDIRECTIONS {
            let addresses = self.addresses(&url).await?;
            let failed = |error: reqwest::Error| Error::unavailable(format!("{url} does not answer.")).caused_by(error.without_url());
            let mut request = client(&url, &addresses)?.request(method.clone(), url.clone());
            if let Some(range) = range {
                request = request.header("range", range);
            }
            let answer = request.send().await.map_err(failed)?;
            if answer.status().is_redirection() {
                let target = answer.headers().get("location").and_then(|location| location.to_str().ok());
                let target = target.and_then(|target| url.join(target).ok());
                let target = target.ok_or_else(|| Error::invalid(format!("{url} leads to no other address.")))?;
                url = self.check(target.as_str())?;
                continue;
            }
            return Ok((url, answer));
        }
        Err(Error::invalid(format!("{text} leads from one address to another too often.")))
    }
}

impl Sources {
    /// Asks a service that an administrator has entered, wherever it is, with a caller's token. It is not followed to anywhere else.
    pub async fn ask(&self, text: &str, token: &str) -> Result<Upload> {
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| Error::invalid(format!("{text} is no address of a service.")))?;
        // Ours is the only cryptography linked in; installed twice is as good as once.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().redirect(Policy::none()).no_proxy().connect_timeout(CONNECT).read_timeout(SILENCE).build();
        let request = client.internal("a client for another region")?.get(url.clone()).header("x-auth-token", token);
        let failed = |error: reqwest::Error| Error::unavailable(format!("{url} does not answer.")).caused_by(error.without_url());
        let answer = request.send().await.map_err(failed)?;
        fine(&url, answer.status())?;
        Ok(body(answer))
    }
}

fn fine(url: &Url, status: StatusCode) -> Result<()> {
    if status == StatusCode::OK {
        return Ok(());
    }
    let text = format!("{url} answers with status {}.", status.as_u16());
    Err(if status.is_server_error() { Error::unavailable(text) } else { Error::invalid(text) })
}

/// The size that an answer announces; also where nothing comes, as for HEAD.
fn announced(answer: &Response) -> Option<u64> {
    answer.headers().get("content-length")?.to_str().ok()?.trim().parse().ok()
}

fn body(answer: Response) -> Upload {
    let broken = |error: reqwest::Error| Error::unavailable("The content ended early.").caused_by(error.without_url());
    Upload::from_stream(answer.bytes_stream().map_err(broken))
}

/// A client that connects to these addresses and no others, whatever the name becomes meanwhile.
fn client(url: &Url, addresses: &[SocketAddr]) -> Result<Client> {
    // Ours is the only cryptography linked in; installed twice is as good as once.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().redirect(Policy::none()).no_proxy().connect_timeout(CONNECT).read_timeout(SILENCE);
    let client = client.resolve_to_addrs(url.host_str().unwrap_or_default(), addresses);
    client.build().internal("a client for the content of images")
}

/// The host as filters name it: lower case, without the dot at the end of a full name or the brackets of an address.
fn host_of(url: &Url) -> Option<String> {
    let host = url.host_str()?.trim_end_matches('.').trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    (!host.is_empty()).then_some(host)
}

fn address_of(url: &Url) -> Option<IpAddr> {
    host_of(url)?.parse().ok()
}

/// Whether an address is of the network that everybody shares.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let own = address.is_private() || address.is_loopback() || address.is_link_local() || address.is_unspecified();
    // Of carriers, of tests, for examples, of protocols, of 6to4 relays, reserved, and for many.
    let other = (a == 100 && (64..128).contains(&b))
        || (a == 198 && (b == 18 || b == 19))
        || address.is_documentation()
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || a == 0
        || a >= 224;
    !own && !other
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    let embedded = |high: u16, low: u16| is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0, 0, 0, 0, 0, 0, high, low] => embedded(high, low),
        // Addresses of IPv4 inside: of NAT64 and 6to4.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        // Teredo, documentation.
        [0x2001, 0, ..] | [0x2001, 0xdb8, ..] => false,
        // What has been given out lies in 2000::/3.
        _ => s[0] & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sources(change: impl FnOnce(&mut Config)) -> Sources {
        let mut config = Config::for_home("/nowhere");
        change(&mut config);
        Sources::of(&config).unwrap()
    }

    #[test]
    fn addresses_as_they_are_written() {
        let usual = sources(|_| {});
        for good in ["http://example.org/x", "https://EXAMPLE.org./x", "http://example.org:443/x", "http://8.8.8.8/x", "http://[2600::1]/x"]
        {
            assert!(usual.check(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "x",
            "ftp://example.org/x",
            "file:///etc/passwd",
            "http://",
            "http://example.org:22/x",
            "http://user@example.org/x",
            "http://127.0.0.1/x",
            "http://127.1/x",
            "http://2130706433/x",
            "http://0x7f.1/x",
            "http://017700000001/x",
            "http://0/x",
            "http://10.1.2.3/x",
            "http://169.254.169.254/latest",
            "http://[::1]/x",
            "http://[::ffff:127.0.0.1]/x",
            "http://[fe80::1]/x",
            "http://[fd00::1]/x",
            "http://[64:ff9b::a00:1]/x",
            "http://[2002:7f00:1::]/x",
            "http://192.168.0.1./x",
            "http://224.0.0.1/x",
            "http://①②⑦.0.0.1/x",
        ] {
            assert!(usual.check(bad).is_err(), "{bad}");
        }
        assert_eq!(usual.check("http://example.org./x").unwrap().as_str(), "http://example.org/x");
        let named = sources(|c| {
            c.set("image.import_allowed_hosts", "10.0.0.1, Example.ORG");
            c.set("image.import_disallowed_hosts", "example.org");
            c.set("image.import_allowed_ports", "");
            c.set("image.import_disallowed_ports", "25");
        });
        for (text, passes) in [
            ("http://10.0.0.1:8080/x", true),
            ("http://10.0.0.2/x", false),
            ("http://example.org./x", true),
            ("http://example.com/x", false),
            ("http://10.0.0.1:25/x", false),
        ] {
            assert_eq!(named.check(text).is_ok(), passes, "{text}");
        }
        let strict = sources(|c| c.set("image.import_allowed_schemes", "https"));
        assert!(strict.check("http://example.org/").is_err() && strict.check("https://example.org/").is_ok());
        let mut config = Config::for_home("/nowhere");
        config.set("image.import_allowed_ports", "80,http");
        assert!(Sources::of(&config).unwrap_err().message().contains("`http` is no port"));
    }

    #[tokio::test]
    async fn a_name_with_an_address_of_our_own_is_not_asked() {
        let usual = sources(|_| {});
        let url = usual.check("http://localhost/x").unwrap();
        assert!(usual.addresses(&url).await.unwrap_err().message().contains("may not be asked"));
        let private = sources(|c| c.set("image.import_private_addresses", "true"));
        assert!(private.addresses(&url).await.unwrap().iter().all(|address| address.ip().is_loopback() && address.port() == 80));
    }

    proptest! {
        #[test]
        fn an_address_inside_another_is_judged_as_itself(bits: u32) {
            let inner = Ipv4Addr::from(bits);
            let (high, low) = ((bits >> 16) as u16, bits as u16);
            for outer in [Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low), Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low), Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1)] {
                prop_assert_eq!(is_public(outer.into()), is_public(inner.into()));
            }
        }
        #[test]
        fn nothing_panics(text in ".{0,60}") {
            let _ = sources(|_| {}).check(&text);
            let _ = sources(|_| {}).check(&format!("http://{text}/"));
        }
    }
}
