//! Who a request comes from, and under which name the cloud was reached: as its connection has it, or as a reverse proxy in front says.

use std::net::IpAddr;

use axum::http::{HeaderMap, header, request::Parts, uri::Authority};

/// The other end of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer {
    /// It speaks TLS.
    pub secure: bool,
    /// `None`: it is this process.
    pub address: Option<IpAddr>,
}

impl Peer {
    /// `scheme://host` as the client reached the cloud: what links begin with.
    pub(crate) fn root_url(&self, parts: &Parts, proxied: bool) -> String {
        let said = |name| if proxied { first(&parts.headers, name) } else { None };
        let scheme = match said("x-forwarded-proto") {
            Some(scheme @ ("http" | "https")) => scheme,
            _ if self.secure => "https",
            _ => "http",
        };
        let own = || parts.headers.get(header::HOST).and_then(|v| v.to_str().ok());
        let host = said("x-forwarded-host").filter(|host| host.parse::<Authority>().is_ok());
        let host = host.or_else(own).or_else(|| parts.uri.authority().map(Authority::as_str)).unwrap_or("localhost");
        format!("{scheme}://{host}")
    }

    /// The client's address, as the log has it. Of those a proxy names the last one counts, which it has seen itself: what stands before
    /// it anybody can write.
    pub(crate) fn client(&self, headers: &HeaderMap, proxied: bool) -> Option<IpAddr> {
        let all = headers.get_all("x-forwarded-for").iter().next_back().filter(|_| proxied);
        let last = all.and_then(|v| v.to_str().ok()).and_then(|text| text.rsplit(',').next());
        last.and_then(|text| text.trim().parse().ok()).or(self.address)
    }
}

/// The first of the values in a header's list: what the client asked the outermost proxy for.
fn first<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()?.split(',').next().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(headers: &[(&str, &str)]) -> Parts {
        let mut request = hyper::Request::builder().uri("/v3").header("host", "inside:5000");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn what_a_proxy_says_counts_where_there_is_one() {
        let peer = Peer { secure: false, address: Some("10.0.0.9".parse().unwrap()) };
        let said = parts(&[
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "cloud.example:8443, inner"),
            ("x-forwarded-for", "203.0.113.7, 198.51.100.2"),
        ]);
        assert_eq!(peer.root_url(&said, true), "https://cloud.example:8443");
        assert_eq!(peer.client(&said.headers, true).unwrap().to_string(), "198.51.100.2");
        assert_eq!(peer.root_url(&said, false), "http://inside:5000");
        assert_eq!(peer.client(&said.headers, false), peer.address);
    }

    #[test]
    fn nonsense_of_a_proxy_is_passed_over() {
        let peer = Peer { secure: true, address: None };
        let said = parts(&[("x-forwarded-proto", "gopher"), ("x-forwarded-host", "a b/c"), ("x-forwarded-for", "unknown")]);
        assert_eq!((peer.root_url(&said, true).as_str(), peer.client(&said.headers, true)), ("https://inside:5000", None));
    }
}
