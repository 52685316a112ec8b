//! What the metadata address answers. Pure: a path and a guest's metadata in, a body out.

use base64::Engine;
use rpc::instance::Metadata;
use serde_json::{Value, json};

/// Versions of the OpenStack tree and what each brought.
const OPENSTACK: [&str; 9] =
    ["2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "2016-10-06", "2017-02-22", "2018-08-27", "2020-10-14"];
const EC2: [&str; 9] =
    ["1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01", "2009-04-04"];

#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub kind: &'static str,
    pub body: Vec<u8>,
}

fn text(body: impl Into<String>) -> Option<Found> {
    Some(Found { kind: "text/plain; charset=UTF-8", body: body.into().into_bytes() })
}

fn document(value: &Value, instead: Value) -> Option<Found> {
    let value = if value.is_null() { &instead } else { value };
    Some(Found { kind: "application/json", body: value.to_string().into_bytes() })
}

fn user_data(metadata: &Metadata) -> Option<Vec<u8>> {
    let encoded = metadata.user_data_base64.as_deref()?;
    base64::engine::general_purpose::STANDARD.decode(encoded).ok()
}

fn bytes(body: Option<Vec<u8>>) -> Option<Found> {
    body.map(|body| Found { kind: "application/octet-stream", body })
}

/// The body of a path; `None`: there is nothing.
pub fn look(metadata: &Metadata, path: &str) -> Option<Found> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    match parts.as_slice() {
        [] => text(EC2.iter().copied().chain(["latest"]).collect::<Vec<_>>().join("\n")),
        ["openstack"] => text(OPENSTACK.iter().copied().chain(["latest"]).collect::<Vec<_>>().join("\n")),
        ["openstack", "content", number] => {
            let content = metadata.files.get(number.parse::<usize>().ok()?)?;
            bytes(base64::engine::general_purpose::STANDARD.decode(content).ok())
        }
        ["openstack", version, rest @ ..] => {
            let since = if *version == "latest" { OPENSTACK.len() - 1 } else { OPENSTACK.iter().position(|v| v == version)? };
            openstack(metadata, since, rest)
        }
        [version, rest @ ..] if *version == "latest" || EC2.contains(version) => ec2(metadata, rest),
        _ => None,
    }
}

/// Whether a path is the one guests may post their password to.
pub fn is_password(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    matches!(parts.as_slice(), ["openstack", version, "password"] if *version == "latest" || OPENSTACK[1..].contains(version))
}

fn openstack(metadata: &Metadata, since: usize, rest: &[&str]) -> Option<Found> {
    match rest {
        [] => {
            let data = user_data(metadata).is_some();
            let names = [
                (true, "meta_data.json"),
                (data, "user_data"),
                (since >= 1, "password"),
                (since >= 2, "vendor_data.json"),
                (since >= 3, "network_data.json"),
                (since >= 5, "vendor_data2.json"),
            ];
            text(names.iter().filter(|(shown, _)| *shown).map(|(_, name)| *name).collect::<Vec<_>>().join("\n"))
        }
        ["meta_data.json"] => document(&metadata.meta_data, json!({})),
        ["user_data"] => bytes(user_data(metadata)),
        ["password"] if since >= 1 => text(metadata.password.clone()),
        ["vendor_data.json"] if since >= 2 => document(&metadata.vendor_data, json!({})),
        ["network_data.json"] if since >= 3 => document(&metadata.network_data, json!({"links": [], "networks": [], "services": []})),
        ["vendor_data2.json"] if since >= 5 => match &metadata.vendor_data {
            Value::Object(map) if !map.is_empty() => document(&json!({"static": metadata.vendor_data}), json!({})),
            _ => document(&json!({}), json!({})),
        },
        _ => None,
    }
}

fn ec2(metadata: &Metadata, rest: &[&str]) -> Option<Found> {
    match rest {
        [] => text(if user_data(metadata).is_some() { "meta-data/\nuser-data" } else { "meta-data/" }),
        ["user-data"] => bytes(user_data(metadata)),
        ["meta-data", below @ ..] => tree(metadata, &below.join("/")),
        _ => None,
    }
}

/// A leaf of the tree, or what is directly below a branch: branches with `/`, keys as `0=name`.
fn tree(metadata: &Metadata, path: &str) -> Option<Found> {
    if let Some(value) = metadata.ec2.get(path) {
        return text(value.clone());
    }
    let below = if path.is_empty() { String::new() } else { format!("{path}/") };
    let mut names: Vec<String> = Vec::new();
    for rest in metadata.ec2.keys().filter_map(|k| k.strip_prefix(&below)) {
        let name = match rest.split_once('/') {
            Some((number, _)) if path == "public-keys" => {
                let name = &metadata.meta_data["keys"][number.parse::<usize>().unwrap_or(0)]["name"];
                format!("{number}={}", name.as_str().unwrap_or("key"))
            }
            Some((branch, _)) => format!("{branch}/"),
            None => rest.to_string(),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() { None } else { text(names.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        Metadata {
            meta_data: json!({"uuid": "u", "keys": [{"name": "mine", "type": "ssh", "data": "ssh-ed25519 A"}]}),
            vendor_data: json!({"a": 1}),
            user_data_base64: Some("I2Nsb3VkLWNvbmZpZw==".into()),
            files: vec!["aGVsbG8=".into()],
            ec2: [("instance-id", "i-1"), ("public-keys/0/openssh-key", "ssh-ed25519 A"), ("placement/availability-zone", "nova")]
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .into(),
            ..Metadata::default()
        }
    }

    #[test]
    fn the_trees() {
        let get = |path: &str| look(&metadata(), path).map(|f| String::from_utf8(f.body).unwrap());
        assert!(get("/").unwrap().ends_with("2009-04-04\nlatest"));
        assert!(get("/openstack/").unwrap().ends_with("2020-10-14\nlatest"));
        assert_eq!(get("/openstack/2012-08-10").unwrap(), "meta_data.json\nuser_data");
        assert!(get("/openstack/latest").unwrap().ends_with("vendor_data2.json"));
        assert!(get("/openstack/latest/meta_data.json").unwrap().contains("\"uuid\":\"u\""));
        assert_eq!(get("/openstack/latest/vendor_data2.json").unwrap(), r#"{"static":{"a":1}}"#);
        assert_eq!(get("/openstack/2012-08-10/vendor_data.json"), None);
        assert_eq!(get("/openstack/content/0000").unwrap(), "hello");
        assert_eq!(get("/openstack/content/0001"), None);
        assert_eq!(get("/latest/user-data").unwrap(), "#cloud-config");
        assert_eq!(get("/latest/meta-data/").unwrap(), "instance-id\nplacement/\npublic-keys/");
        assert_eq!(get("/2009-04-04/meta-data/instance-id").unwrap(), "i-1");
        assert_eq!(get("/latest/meta-data/public-keys/").unwrap(), "0=mine");
        assert_eq!(get("/latest/meta-data/public-keys/0/").unwrap(), "openssh-key");
        assert_eq!(get("/latest/meta-data/public-keys/0/openssh-key").unwrap(), "ssh-ed25519 A");
        for nothing in
            ["/nothing", "/openstack/1999-01-01", "/latest/nothing", "/latest/meta-data/instance", "/latest/meta-data/x/", "/../etc"]
        {
            assert_eq!(get(nothing), None, "{nothing}");
        }
        assert!(is_password("/openstack/latest/password") && !is_password("/openstack/2012-08-10/password"));
    }
}
