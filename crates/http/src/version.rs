//! Microversions: which one a request asks for, in the header dialect of its service.
//!
//! All dialects share `OpenStack-API-Version: <service> <version>`; compute also knows
//! `X-OpenStack-Nova-API-Version: <version>`. Source: the API working group's microversion specification.

use axum::http::HeaderMap;
use base::{Error, Kind, Result};

/// `major.minor`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub major: u16,
    pub minor: u16,
}

impl Version {
    /// Of requests from before there were microversions: older than any.
    pub const LEGACY: Version = Version::new(2, 0);

    pub const fn new(major: u16, minor: u16) -> Self {
        Version { major, minor }
    }
    /// Strict `N.M` without leading zeros.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        let number = |t: &str| -> Option<u16> {
            let canonical = !t.is_empty() && t.len() <= 4 && t.bytes().all(|b| b.is_ascii_digit()) && (t == "0" || !t.starts_with('0'));
            canonical.then(|| t.parse().ok()).flatten()
        };
        Some(Version::new(number(major)?, number(minor)?))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The microversions a service serves.
#[derive(Clone, Copy, Debug)]
pub struct Versions {
    /// The word before the version in the header: the service type (`compute`, `placement`, `volume`).
    pub service: &'static str,
    /// A header of its own from before the common one.
    pub legacy_header: Option<&'static str>,
    pub min: Version,
    pub max: Version,
}

impl Versions {
    /// The version of a request: `min` when it names none.
    pub fn negotiate(&self, headers: &HeaderMap) -> Result<Version> {
        let Some(wanted) = self.wanted(headers)? else { return Ok(self.min) };
        if wanted == "latest" {
            return Ok(self.max);
        }
        let version = Version::parse(wanted).ok_or_else(|| {
            Error::invalid(format!("API Version String {wanted} is of invalid format. Must be of format MajorNum.MinorNum."))
        })?;
        if version < self.min || version > self.max {
            return Err(Error::new(
                Kind::NotAcceptable,
                format!("Version {version} is not supported by the API. Minimum is {} and maximum is {}.", self.min, self.max),
            ));
        }
        Ok(version)
    }

    fn wanted<'a>(&self, headers: &'a HeaderMap) -> Result<Option<&'a str>> {
        for value in headers.get_all("openstack-api-version") {
            let text = value.to_str().map_err(|_| Error::invalid("The OpenStack-API-Version header is not ASCII."))?;
            for part in text.split(',') {
                match part.trim().split_once(' ') {
                    Some((service, version)) if service.eq_ignore_ascii_case(self.service) => return Ok(Some(version.trim())),
                    // A version for another service is none of our business.
                    _ => {}
                }
            }
        }
        let Some(legacy) = self.legacy_header.and_then(|name| headers.get(name)) else { return Ok(None) };
        legacy.to_str().map(|t| Some(t.trim())).map_err(|_| Error::invalid("The version header is not ASCII."))
    }

    /// The headers of every answer of a versioned service.
    pub fn stamp(&self, version: Version, headers: &mut HeaderMap) {
        let put = |headers: &mut HeaderMap, name: &'static str, value: String| {
            if let Ok(value) = value.parse() {
                headers.append(name, value);
            }
        };
        put(headers, "openstack-api-version", format!("{} {version}", self.service));
        put(headers, "vary", "OpenStack-API-Version".into());
        if let Some(name) = self.legacy_header {
            put(headers, name, version.to_string());
            put(headers, "vary", name.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPUTE: Versions = Versions {
        service: "compute",
        legacy_header: Some("x-openstack-nova-api-version"),
        min: Version::new(2, 1),
        max: Version::new(2, 104),
    };

    fn ask(pairs: &[(&'static str, &str)]) -> Result<Version> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        COMPUTE.negotiate(&headers)
    }

    #[test]
    fn negotiates_in_both_dialects() {
        assert_eq!(ask(&[]).unwrap(), Version::new(2, 1));
        assert_eq!(ask(&[("openstack-api-version", "compute 2.53")]).unwrap(), Version::new(2, 53));
        assert_eq!(ask(&[("openstack-api-version", "volume 3.70, Compute latest")]).unwrap(), Version::new(2, 104));
        assert_eq!(ask(&[("openstack-api-version", "volume 3.70")]).unwrap(), Version::new(2, 1));
        assert_eq!(ask(&[("x-openstack-nova-api-version", "2.10")]).unwrap(), Version::new(2, 10));
        let both = [("x-openstack-nova-api-version", "2.10"), ("openstack-api-version", "compute 2.20")];
        assert_eq!(ask(&both).unwrap(), Version::new(2, 20));
    }

    #[test]
    fn refuses_what_is_not_served() {
        assert_eq!(ask(&[("openstack-api-version", "compute 2.105")]).unwrap_err().kind(), Kind::NotAcceptable);
        assert_eq!(ask(&[("openstack-api-version", "compute 1.9")]).unwrap_err().kind(), Kind::NotAcceptable);
        for bad in ["compute 2", "compute 2.01", "compute -1.2", "compute 2.1.1", "compute two.one", "compute 2.99999"] {
            assert_eq!(ask(&[("openstack-api-version", bad)]).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
    }
}
