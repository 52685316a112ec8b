//! Who a request comes from, and under which name the cloud was reached: as its connection has it, or as a reverse proxy in front says.

use std::net::IpAddr;

use axum::http::{HeaderMap, header, request::Parts, uri::Authority};

use crate::certificate::{Certificate, Proxies};

/// The other end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// It speaks TLS.
    pub secure: bool,
    /// `None`: it is this process.
    pub address: Option<IpAddr>,
    /// What it has shown in the handshake, verified.
    pub certificate: Option<Certificate>,
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

    /// The client's certificate. What a proxy has shown is its own and not the client's.
    pub(crate) fn certificate(&self, headers: &HeaderMap, proxies: &Proxies) -> Option<Certificate> {
        if proxies.include(self.address) { proxies.handed_on(headers) } else { self.certificate.clone() }
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
        let peer = Peer { address: Some("10.0.0.9".parse().unwrap()), ..Peer::default() };
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
        let peer = Peer { secure: true, ..Peer::default() };
        let said = parts(&[("x-forwarded-proto", "gopher"), ("x-forwarded-host", "a b/c"), ("x-forwarded-for", "unknown")]);
        assert_eq!((peer.root_url(&said, true).as_str(), peer.client(&said.headers, true)), ("https://inside:5000", None));
    }

    /// As in CVE-2024-10039, where whoever reached the server could write the header that the proxy writes, and CVE-2015-0219, where a
    /// name that only looks like the header's was taken for it.
    #[test]
    fn a_certificate_is_taken_from_who_may_hand_it_on_alone() {
        let (own, other) = (Certificate::from_der(vec![1]), Certificate::from_der(vec![2]));
        let proxies = Proxies::read(true, "10.0.0.9", "client-cert").unwrap();
        let from = |address: &str| Peer { address: Some(address.parse().unwrap()), certificate: Some(own.clone()), ..Peer::default() };
        let said = parts(&[("client-cert", ":Ag==:"), ("x-forwarded-for", "10.0.0.9")]).headers;
        assert_eq!(from("10.0.0.9").certificate(&said, &proxies), Some(other));
        for address in ["10.0.0.8", "127.0.0.1", "::1"] {
            assert_eq!(from(address).certificate(&said, &proxies), Some(own.clone()), "{address}");
            let bare = Peer { certificate: None, ..from(address) };
            assert_eq!(bare.certificate(&said, &proxies), None, "{address}");
        }
        // Neither without a proxy nor without the header's name does it count.
        for proxies in [Proxies::default(), Proxies::read(true, "", "").unwrap()] {
            assert_eq!(from("10.0.0.9").certificate(&said, &proxies), Some(own.clone()));
        }
        assert_eq!(from("10.0.0.9").certificate(&said, &Proxies::read(true, "10.0.0.9", "").unwrap()), None);
        // What the proxy shows of itself is nobody else's; nor is a second header, one of a like name or one that is unreadable.
        for headers in
            [&[][..], &[("client-cert", ":AQ==:"), ("client-cert", ":Ag==:")], &[("client_cert", ":AQ==:")], &[("client-cert", "(null)")]]
        {
            assert_eq!(from("10.0.0.9").certificate(&parts(headers).headers, &proxies), None, "{headers:?}");
        }
    }
}
