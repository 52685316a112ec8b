//! Processors that servers have for themselves, as flavors and images ask for them, and with how few of them they do.

use std::collections::{BTreeMap, BTreeSet};

use base::{Error, Result};

use crate::db::servers::Server;
use crate::flavors::Flavor;

const POLICY: &str = "hw:cpu_policy";
const THREADS: &str = "hw:cpu_thread_policy";
const POLICY_OF_IMAGE: &str = "hw_cpu_policy";
const THREADS_OF_IMAGE: &str = "hw_cpu_thread_policy";
/// With how many a server does at least: it is scaled between this and the flavor's number.
const LEAST: [&str; 2] = ["hw:wrs:min_vcpus", "wrs:min_vcpus"];
const POLICIES: &[&str] = &["dedicated", "mixed", "shared"];
const THREAD_POLICIES: &[&str] = &["isolate", "prefer", "require"];

/// Whether vCPUs that are neighbours may be threads of one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    Prefer,
    /// Never: on hosts whose cores have one thread.
    Isolate,
    /// On hosts whose cores have several.
    Require,
}

/// What a server's processors are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpus {
    pub dedicated: bool,
    pub threads: Threads,
    /// With how many it does; none: it is not scaled.
    pub least: Option<u32>,
}

/// Extra specs that say something of processors, and do not say it as they can be understood (since 2.86).
pub fn specs_check(specs: &BTreeMap<String, String>) -> Result<()> {
    for (key, known) in [(POLICY, POLICIES), (THREADS, THREAD_POLICIES)] {
        if let Some(value) = specs.get(key).filter(|value| !known.contains(&value.as_str())) {
            return Err(Error::invalid(format!("Validation failed; '{key}' is '{value}', which is not one of {}", known.join(", "))));
        }
    }
    for key in LEAST {
        if let Some(value) = specs.get(key).filter(|value| !value.parse::<u32>().is_ok_and(|least| least > 0)) {
            return Err(Error::invalid(format!("Validation failed; '{key}' is '{value}', which is not a positive number")));
        }
    }
    Ok(())
}

/// The least number of vCPUs that a flavor asks for.
fn least(flavor: &Flavor, dedicated: bool) -> Result<Option<u32>> {
    let specs = &flavor.doc.extra_specs;
    let Some((key, value)) = LEAST.into_iter().find_map(|key| Some((key, specs.get(key)?))) else { return Ok(None) };
    match value.parse::<u32>() {
        Ok(_) if !dedicated => Err(Error::invalid(format!("{key} needs {POLICY}=dedicated"))),
        Ok(least) if (1..=flavor.vcpus).contains(&least) => Ok(Some(least)),
        _ => Err(Error::invalid(format!("{key} is {value}; it must be between 1 and the flavor's vcpus, {}", flavor.vcpus))),
    }
}

/// What flavor and image ask for together. The flavor's word wins; where the image may not say otherwise, that is an error.
pub fn of(flavor: &Flavor, image: &BTreeMap<String, String>) -> Result<Cpus> {
    let dedicated = policy(flavor, image)? == "dedicated";
    let specs = &flavor.doc.extra_specs;
    let (own, of_image) = (word(specs, THREADS, THREAD_POLICIES, "flavor")?, word(image, THREADS_OF_IMAGE, THREAD_POLICIES, "image")?);
    if let (Some(own), Some(of_image)) = (own, of_image)
        && own != "prefer"
        && own != of_image
    {
        return Err(over_flavor(THREADS_OF_IMAGE, "CPU thread pinning"));
    }
    let threads = match of_image.filter(|_| own.is_none_or(|own| own == "prefer")).or(own) {
        Some(_) if !dedicated => {
            return Err(Error::invalid("Cannot set cpu thread pinning policy in a non dedicated cpu pinning policy"));
        }
        Some("isolate") => Threads::Isolate,
        Some("require") => Threads::Require,
        _ => Threads::Prefer,
    };
    Ok(Cpus { dedicated, threads, least: least(flavor, dedicated)? })
}

fn policy<'a>(flavor: &'a Flavor, image: &'a BTreeMap<String, String>) -> Result<&'a str> {
    let own = word(&flavor.doc.extra_specs, POLICY, POLICIES, "flavor")?;
    let of_image = word(image, POLICY_OF_IMAGE, POLICIES, "image")?;
    match (own, of_image) {
        (Some("dedicated"), _) => Ok("dedicated"),
        (Some("shared"), Some("dedicated" | "mixed")) => Err(over_flavor(POLICY_OF_IMAGE, "CPU pinning")),
        (Some("mixed"), _) | (None, Some("mixed")) => {
            Err(Error::invalid("The CPU policy 'mixed' is not supported: 'dedicated' or 'shared'."))
        }
        (Some(own), _) => Ok(own),
        (None, of_image) => Ok(of_image.unwrap_or("shared")),
    }
}

fn over_flavor(property: &str, what: &str) -> Error {
    Error::invalid(format!("Image property '{property}' is not permitted to override {what} policy set against the flavor"))
}

fn word<'a>(all: &'a BTreeMap<String, String>, key: &str, known: &[&str], source: &str) -> Result<Option<&'a str>> {
    match all.get(key).map(String::as_str) {
        Some(value) if !known.contains(&value) => {
            Err(Error::invalid(format!("{key} '{value}' requested by the {source} is invalid; it must be one of {}", known.join(", "))))
        }
        value => Ok(value),
    }
}

/// What a server's processors are. One from before this was understood may ask for what cannot be; it shares.
pub fn of_server(server: &Server) -> Cpus {
    let shared = Cpus { dedicated: false, threads: Threads::Prefer, least: None };
    let none = BTreeMap::new();
    let image = server.doc.image.as_ref().map_or(&none, |image| &image.properties);
    server.doc.flavor.as_ref().map_or(Ok(shared), |flavor| of(flavor, image)).unwrap_or(shared)
}

pub fn is_dedicated(server: &Server) -> bool {
    of_server(server).dedicated
}

/// The vCPUs that a server does with now.
pub fn online(server: &Server) -> BTreeSet<u32> {
    let all = server.doc.flavor.as_ref().map_or(0, |flavor| flavor.vcpus);
    (0..all).filter(|vcpu| !server.doc.offline.contains(vcpu)).collect()
}

/// Has a server do without these, and counts what it has then.
pub fn offline_set(server: &mut Server, offline: BTreeSet<u32>) {
    server.doc.offline = offline;
    server.vcpus = u32::try_from(online(server).len()).unwrap_or(u32::MAX);
}

#[cfg(test)]
mod tests {
    use base::Timestamp;

    use super::*;
    use crate::flavors::FlavorDoc;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    fn asked(flavor: &[(&str, &str)], image: &[(&str, &str)]) -> Result<Cpus, String> {
        let flavor = Flavor {
            id: "1".into(),
            name: "f".into(),
            vcpus: 4,
            memory_mb: 1,
            root_gb: 0,
            ephemeral_gb: 0,
            swap_mb: 0,
            is_public: true,
            disabled: false,
            created_at: Timestamp(0),
            updated_at: None,
            doc: FlavorDoc { extra_specs: map(flavor), ..FlavorDoc::default() },
        };
        of(&flavor, &map(image)).map_err(|error| error.message().to_string())
    }

    #[test]
    fn the_flavors_policy_wins_and_the_image_may_only_add_to_none() {
        let dedicated = |flavor: &[(&str, &str)], image: &[(&str, &str)]| asked(flavor, image).map(|cpus| cpus.dedicated);
        assert_eq!(dedicated(&[], &[]), Ok(false));
        assert_eq!(dedicated(&[(POLICY, "dedicated")], &[]), Ok(true));
        assert_eq!(dedicated(&[(POLICY, "dedicated")], &[(POLICY_OF_IMAGE, "shared")]), Ok(true));
        assert_eq!(dedicated(&[], &[(POLICY_OF_IMAGE, "dedicated")]), Ok(true));
        assert_eq!(dedicated(&[(POLICY, "shared")], &[(POLICY_OF_IMAGE, "shared")]), Ok(false));
        let refused = dedicated(&[(POLICY, "shared")], &[(POLICY_OF_IMAGE, "dedicated")]).unwrap_err();
        assert!(refused.contains("'hw_cpu_policy' is not permitted to override CPU pinning policy"), "{refused}");
        assert!(dedicated(&[(POLICY, "mixed")], &[]).unwrap_err().contains("not supported"));
        assert!(dedicated(&[(POLICY, "mine")], &[]).unwrap_err().contains("'mine' requested by the flavor"));
        assert!(dedicated(&[], &[(POLICY_OF_IMAGE, "mine")]).unwrap_err().contains("requested by the image"));
    }

    #[test]
    fn thread_policies_need_dedicated_processors_and_must_agree() {
        let own = (POLICY, "dedicated");
        let threads = |flavor: &[(&str, &str)], image: &[(&str, &str)]| asked(flavor, image).map(|cpus| cpus.threads);
        assert_eq!(threads(&[own], &[]), Ok(Threads::Prefer));
        assert_eq!(threads(&[own, (THREADS, "isolate")], &[]), Ok(Threads::Isolate));
        assert_eq!(threads(&[own], &[(THREADS_OF_IMAGE, "require")]), Ok(Threads::Require));
        assert_eq!(threads(&[own, (THREADS, "prefer")], &[(THREADS_OF_IMAGE, "isolate")]), Ok(Threads::Isolate));
        assert!(threads(&[own, (THREADS, "require")], &[(THREADS_OF_IMAGE, "isolate")]).unwrap_err().contains("hw_cpu_thread_policy"));
        assert!(threads(&[(THREADS, "isolate")], &[]).unwrap_err().contains("non dedicated"));
    }

    #[test]
    fn the_least_number_is_one_of_the_flavors_dedicated_ones() {
        let own = (POLICY, "dedicated");
        let least = |flavor: &[(&str, &str)]| asked(flavor, &[]).map(|cpus| cpus.least);
        assert_eq!(least(&[own]), Ok(None));
        assert_eq!(least(&[own, ("hw:wrs:min_vcpus", "1")]), Ok(Some(1)));
        assert_eq!(least(&[own, ("wrs:min_vcpus", "4")]), Ok(Some(4)));
        for bad in ["0", "5", "-1", "two"] {
            assert!(least(&[own, ("hw:wrs:min_vcpus", bad)]).unwrap_err().contains("between 1 and the flavor's vcpus, 4"), "{bad}");
        }
        assert!(least(&[("hw:wrs:min_vcpus", "1")]).unwrap_err().contains("needs hw:cpu_policy=dedicated"));
    }

    #[test]
    fn specs_are_words_that_are_known() {
        assert!(specs_check(&map(&[(POLICY, "mixed"), (THREADS, "isolate"), ("hw:other", "x")])).is_ok());
        assert!(specs_check(&map(&[(POLICY, "Dedicated")])).unwrap_err().message().contains("dedicated, mixed, shared"));
        assert!(specs_check(&map(&[(THREADS, "x")])).is_err());
        assert!(specs_check(&map(&[("wrs:min_vcpus", "0")])).is_err() && specs_check(&map(&[("wrs:min_vcpus", "2")])).is_ok());
    }
}
