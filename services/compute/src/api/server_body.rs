//! Bodies of server requests, per version.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base::{Error, Result};
use http_api::Version;
use serde_json::{Map, Value};

use crate::fields::{self, Field, Fields};

/// What `POST /servers` asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerCreate {
    pub name: String,
    pub description: Option<String>,
    pub hostname: Option<String>,
    pub image_ref: Option<String>,
    pub flavor_ref: String,
    pub admin_pass: Option<String>,
    pub metadata: BTreeMap<String, String>,
    pub networks: Networks,
    pub auto_disk_config: Option<bool>,
    pub access_ip_v4: Option<String>,
    pub access_ip_v6: Option<String>,
    /// Path and base64 of files for the guest.
    pub files: Vec<(String, String)>,
    pub availability_zone: Option<String>,
    pub devices: Vec<BlockDevice>,
    pub legacy_devices: bool,
    /// It may have volumes that others have too.
    pub multiattach: bool,
    pub config_drive: Option<bool>,
    pub key_name: Option<String>,
    pub min_count: i64,
    pub max_count: i64,
    pub return_reservation_id: bool,
    pub security_groups: Option<Vec<String>>,
    pub user_data: Option<String>,
    pub tags: Vec<String>,
    pub trusted_certs: Option<Vec<String>>,
    pub host: Option<String>,
    pub hypervisor_hostname: Option<String>,
    pub hints: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum Networks {
    /// Nothing said: the project's network if there is one.
    #[default]
    Unset,
    Auto,
    None,
    List(Vec<NetworkWish>),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkWish {
    pub uuid: Option<String>,
    pub port: Option<String>,
    pub fixed_ip: Option<IpAddr>,
    pub tag: Option<String>,
}

/// One entry of `block_device_mapping` or `block_device_mapping_v2`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockDevice {
    pub source: Option<&'static str>,
    pub destination: Option<&'static str>,
    pub uuid: Option<String>,
    pub volume_size: Option<i64>,
    pub guest_format: Option<String>,
    pub boot_index: Option<i64>,
    pub no_device: bool,
    /// It names a volume or a snapshot.
    pub names_volume: bool,
    /// In the first form: a snapshot.
    pub legacy_snapshot: bool,
    pub device_name: Option<String>,
    pub delete_on_termination: bool,
    pub tag: Option<String>,
    pub volume_type: Option<String>,
}

/// From here on a server may have volumes that others have too.
pub const MULTIATTACH: Version = Version::new(2, 60);

fn v(minor: u16) -> Version {
    Version::new(2, minor)
}

impl ServerCreate {
    pub fn parse(body: &Map<String, Value>, version: Version) -> Result<ServerCreate> {
        let mut root = Fields::root(body, version);
        let mut create = root.need("server", |f| server(f, version))?;
        create.multiattach = version >= MULTIATTACH;
        let hints = |f: Field| scheduler_hints(f);
        let first = root.take("os:scheduler_hints", hints)?;
        let second = root.take("OS-SCH-HNT:scheduler_hints", hints)?;
        root.finish()?;
        create.hints = first.or(second).unwrap_or_default();
        Ok(create)
    }
}

fn server(field: Field, version: Version) -> Result<ServerCreate> {
    let mut f = Fields::of(field)?;
    let mut create = ServerCreate { name: f.need("name", fields::name)?.trim().to_string(), ..ServerCreate::default() };
    create.image_ref = f.take("imageRef", image_ref)?.flatten();
    create.flavor_ref = f.need("flavorRef", flavor_ref)?;
    create.admin_pass = f.take("adminPass", fields::text(0, 65535))?;
    create.metadata = f.take("metadata", fields::metadata)?.unwrap_or_default();
    create.networks = if version >= v(37) {
        f.need("networks", |x| networks(x, version))?
    } else {
        f.take("networks", |x| networks(x, version))?.unwrap_or_default()
    };
    create.auto_disk_config = f.take("OS-DCF:diskConfig", fields::one_of(&["AUTO", "MANUAL"]))?.map(|c| c == "AUTO");
    create.access_ip_v4 = f.take("accessIPv4", fields::ipv4)?;
    create.access_ip_v6 = f.take("accessIPv6", fields::ipv6)?;
    create.files = f.take_if(version < v(57), "personality", fields::list(1000, personality))?.unwrap_or_default();
    create.availability_zone = f.take("availability_zone", fields::name)?;
    let legacy = f.take("block_device_mapping", fields::list(1000, |x| block_device(x, false, false, false)))?.unwrap_or_default();
    let tagged = version == v(32) || version >= v(42);
    let typed = version >= v(67);
    let devices = f.take("block_device_mapping_v2", fields::list(1000, |x| block_device(x, true, tagged, typed)))?.unwrap_or_default();
    if !legacy.is_empty() && !devices.is_empty() {
        return Err(Error::invalid("Using different block_device_mapping syntaxes is not allowed in the same request."));
    }
    create.legacy_devices = !legacy.is_empty();
    create.devices = if legacy.is_empty() { devices } else { legacy };
    create.config_drive = f.take("config_drive", fields::boolean)?;
    create.key_name = f.take("key_name", fields::name)?;
    let min_count = f.take("min_count", fields::positive)?;
    let max_count = f.take("max_count", fields::positive)?;
    create.min_count = min_count.unwrap_or(1);
    create.max_count = max_count.unwrap_or(create.min_count);
    if create.min_count > create.max_count {
        return Err(Error::invalid("min_count must be <= max_count"));
    }
    create.return_reservation_id = f.take("return_reservation_id", fields::boolean)?.unwrap_or(false);
    create.security_groups = f.take("security_groups", fields::list(1000, security_group))?.map(|groups| {
        let mut names = Vec::new();
        for name in groups.into_iter().flatten() {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    });
    create.user_data = f.take("user_data", fields::base64(65535))?;
    create.description = if version >= v(19) { f.take("description", fields::description)?.flatten() } else { Some(create.name.clone()) };
    let mut tags = f.take_if(version >= v(52), "tags", fields::list(50, fields::tag))?.unwrap_or_default();
    tags.sort();
    tags.dedup();
    create.tags = tags;
    create.trusted_certs = f.take_if(version >= v(63), "trusted_image_certificates", fields::nullable(trusted_certs))?.flatten();
    create.host = f.take_if(version >= v(74), "host", fields::fqdn)?;
    create.hypervisor_hostname = f.take_if(version >= v(74), "hypervisor_hostname", fields::fqdn)?;
    create.hostname = match version {
        _ if version >= v(94) => f.take("hostname", fields::fqdn)?,
        _ if version >= v(90) => f.take("hostname", fields::hostname)?,
        _ => None,
    };
    f.finish()?;
    Ok(create)
}

/// A UUID, or nothing where devices name what to boot from.
fn image_ref(f: Field) -> Result<Option<String>> {
    if f.value == "" { Ok(None) } else { fields::uuid(f).map(Some) }
}

/// An id, or a URL that ends in one.
pub(super) fn flavor_ref(f: Field) -> Result<String> {
    if let Some(n) = f.value.as_i64() {
        return Ok(n.to_string());
    }
    let text = fields::text(1, 65535)(f)?;
    let path = text.split(['?', '#']).next().unwrap_or_default();
    Ok(path.rsplit('/').next().unwrap_or_default().to_string())
}

fn networks(f: Field, version: Version) -> Result<Networks> {
    if version >= v(37) {
        match f.value.as_str() {
            Some("auto") => return Ok(Networks::Auto),
            Some("none") => return Ok(Networks::None),
            Some(other) => return Err(f.wrong(format!("'{other}' is neither 'auto' nor 'none'"))),
            None => {}
        }
    }
    let list = fields::list(1000, |x| network(x, version))(f)?;
    let mut ports = Vec::new();
    for wish in &list {
        match (&wish.port, &wish.uuid) {
            (Some(port), _) if ports.contains(port) => {
                return Err(Error::invalid(format!("Port ID '{port}' was specified twice: you cannot attach a port multiple times.")));
            }
            (Some(port), _) => {
                if let Some(address) = wish.fixed_ip {
                    return Err(Error::invalid(format!(
                        "Specified Fixed IP '{address}' cannot be used with port '{port}': the two cannot be specified together."
                    )));
                }
                ports.push(port.clone());
            }
            (None, None) => return Err(Error::invalid("Bad network format: missing 'uuid'")),
            (None, Some(id)) if !base::id::is_uuid(id) => {
                return Err(Error::invalid(format!("Bad networks format: network uuid is not in proper format ({id})")));
            }
            (None, Some(_)) => {}
        }
    }
    Ok(if list.is_empty() { Networks::Unset } else { Networks::List(list) })
}

fn network(field: Field, version: Version) -> Result<NetworkWish> {
    let mut f = Fields::of(field)?;
    let wish = NetworkWish {
        fixed_ip: f.take("fixed_ip", fields::ip)?,
        port: f.take("port", fields::nullable(fields::uuid))?.flatten(),
        uuid: if version >= v(37) { f.take("uuid", fields::uuid)? } else { f.take("uuid", fields::text(0, 65535))? },
        tag: f.take_if((v(32)..v(37)).contains(&version) || version >= v(42), "tag", fields::tag)?,
    };
    f.finish()?;
    Ok(wish)
}

pub(super) fn personality(field: Field) -> Result<(String, String)> {
    let mut f = Fields::of(field)?;
    let file = (f.need("path", fields::text(0, 65535))?, f.need("contents", fields::base64(1 << 20))?);
    f.finish()?;
    Ok(file)
}

fn security_group(field: Field) -> Result<Option<String>> {
    let mut f = Fields::of(field)?;
    let name = f.take("name", fields::name)?;
    f.finish()?;
    Ok(name)
}

pub(super) fn trusted_certs(f: Field) -> Result<Vec<String>> {
    let certs = fields::list(50, fields::text(1, 65535))(f)?;
    let mut unique = certs.clone();
    unique.sort();
    unique.dedup();
    if certs.is_empty() || unique.len() != certs.len() {
        return Err(f.wrong("it must hold at least one id, and each once"));
    }
    Ok(certs)
}

fn block_device(field: Field, second: bool, tagged: bool, typed: bool) -> Result<BlockDevice> {
    let mut f = Fields::of(field)?;
    let word = || fields::text(0, 255);
    f.take("virtual_name", word())?;
    let volume = f.take("volume_id", fields::nullable(fields::uuid))?.flatten();
    let snapshot = f.take("snapshot_id", fields::nullable(fields::uuid))?.flatten();
    let volume_size = f.take("volume_size", fields::nullable(fields::positive))?.flatten();
    let device_letters = |c: char| c.is_ascii_alphanumeric() || "._/-".contains(c);
    let device_name =
        f.take("device_name", fields::nullable(fields::text_of(1, 255, device_letters, "letters, digits and ._/-")))?.flatten();
    let delete_on_termination = f.take("delete_on_termination", fields::boolean)?.unwrap_or(false);
    let no_device = f.take("no_device", fields::any)?.is_some_and(|v| v != Value::Bool(false) && !v.is_null());
    f.take("connection_info", fields::text(0, 16_777_215))?;
    let mut device = BlockDevice {
        volume_size,
        no_device,
        names_volume: volume.is_some() || snapshot.is_some(),
        legacy_snapshot: volume.is_none() && snapshot.is_some(),
        uuid: volume.or(snapshot),
        device_name,
        delete_on_termination,
        ..BlockDevice::default()
    };
    if second {
        device.source = f.take("source_type", fields::one_of(&["volume", "image", "snapshot", "blank"]))?;
        let id = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let uuid = f.take("uuid", fields::text_of(1, 255, id, "letters, digits and ._-"))?;
        device.uuid = uuid.or(device.uuid);
        let image = f.take("image_id", fields::uuid)?;
        if let Some(image) = image {
            device.source = device.source.or(Some("image"));
            device.uuid = device.uuid.or(Some(image));
        }
        device.destination = f.take("destination_type", fields::one_of(&["local", "volume"]))?;
        device.guest_format = f.take("guest_format", fields::nullable(word()))?.flatten();
        f.take("device_type", fields::nullable(word()))?;
        f.take("disk_bus", fields::nullable(word()))?;
        device.boot_index = f.take("boot_index", fields::nullable(fields::integer(-(1 << 31), 1 << 31)))?.flatten();
        device.tag = f.take_if(tagged, "tag", fields::tag)?;
        device.volume_type = f.take_if(typed, "volume_type", fields::nullable(word()))?.flatten();
    }
    f.finish()?;
    Ok(device)
}

/// Hints are free, but those the reference knows have their types.
fn scheduler_hints(f: Field) -> Result<Map<String, Value>> {
    let map = f.value.as_object().ok_or_else(|| f.wrong("it is not of type 'object'"))?;
    for (key, value) in map {
        let at = format!("{}.{key}", f.at);
        let hint = Field { at: &at, value, ..f };
        match key.as_str() {
            "group" | "different_host" | "same_host" => {
                if value.is_array() {
                    fields::list(1000, fields::uuid)(hint)?;
                } else if key == "same_host" {
                    fields::text(0, 65535)(hint)?;
                } else {
                    fields::uuid(hint)?;
                }
            }
            "query" if !value.is_string() && !value.is_object() => return Err(hint.wrong("it is neither text nor an object")),
            "target_cell" => drop(fields::name(hint)?),
            "different_cell" if value.is_array() => drop(fields::list(1000, fields::text(0, 65535))(hint)?),
            "different_cell" => drop(fields::text(0, 65535)(hint)?),
            "build_near_host_ip" => drop(fields::ip(hint)?),
            "cidr" => {
                let text = fields::text_of(2, 255, |c| c == '/' || c == '.' || c == ':' || c.is_ascii_hexdigit(), "a prefix length")(hint)?;
                if !text.starts_with('/') {
                    return Err(hint.wrong("it does not begin with '/'"));
                }
            }
            _ => {}
        }
    }
    Ok(map.clone())
}

/// The ids a hint names, one or several.
pub fn hint_ids(hints: &Map<String, Value>, name: &str) -> Vec<String> {
    match hints.get(name) {
        Some(Value::String(id)) => vec![id.clone()],
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_str).map(str::to_string).collect(),
        _ => Vec::new(),
    }
}

/// What `PUT /servers/{id}` asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerUpdate {
    pub name: Option<String>,
    pub description: Option<Option<String>>,
    pub hostname: Option<String>,
    pub auto_disk_config: Option<bool>,
    pub access_ip_v4: Option<String>,
    pub access_ip_v6: Option<String>,
    pub pinned_zone: Option<Option<String>>,
}

impl ServerUpdate {
    pub fn parse(body: &Map<String, Value>, version: Version) -> Result<ServerUpdate> {
        let mut root = Fields::root(body, version);
        let update = root.need("server", |field| {
            let mut f = Fields::of(field)?;
            let update = ServerUpdate {
                name: f.take("name", fields::name)?.map(|n| n.trim().to_string()),
                auto_disk_config: f.take("OS-DCF:diskConfig", fields::one_of(&["AUTO", "MANUAL"]))?.map(|c| c == "AUTO"),
                access_ip_v4: f.take("accessIPv4", fields::ipv4)?,
                access_ip_v6: f.take("accessIPv6", fields::ipv6)?,
                description: f.take_if(version >= v(19), "description", fields::description)?,
                hostname: match version {
                    _ if version >= v(94) => f.take("hostname", fields::fqdn)?,
                    _ if version >= v(90) => f.take("hostname", fields::hostname)?,
                    _ => None,
                },
                pinned_zone: f.take_if(version >= v(104), "pinned_availability_zone", fields::nullable(fields::text(1, 255)))?,
            };
            f.finish()?;
            Ok(update)
        })?;
        root.finish()?;
        Ok(update)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(server: Value, minor: u16) -> Result<ServerCreate> {
        ServerCreate::parse(json!({ "server": server }).as_object().unwrap(), v(minor))
    }

    fn with(extra: Value) -> Value {
        let mut server = json!({"name": "a", "flavorRef": "1", "imageRef": "70a599e0-31e7-49b7-b260-868f441e862b"});
        for (key, value) in extra.as_object().unwrap() {
            server[key] = value.clone();
        }
        server
    }

    /// (attribute, first version, last version): outside the window it is an unknown attribute.
    #[test]
    fn attributes_live_in_their_versions_only() {
        let id = "70a599e0-31e7-49b7-b260-868f441e862b";
        let table: &[(Value, u16, u16)] = &[
            (json!({"personality": [{"path": "/a", "contents": "aGk="}]}), 1, 56),
            (json!({"description": "d"}), 19, 104),
            (json!({"tags": ["a"]}), 52, 104),
            (json!({"trusted_image_certificates": ["a"]}), 63, 104),
            (json!({"host": "h"}), 74, 104),
            (json!({"hypervisor_hostname": "h"}), 74, 104),
            (json!({"hostname": "ab"}), 90, 104),
            (json!({"hostname": "ab.example.org"}), 94, 104),
            (json!({"networks": "auto"}), 37, 104),
            (json!({"networks": [{"uuid": id, "tag": "t"}]}), 32, 36),
            (json!({"networks": [{"uuid": id, "tag": "t"}]}), 42, 104),
            (json!({"block_device_mapping_v2": [{"source_type": "blank", "destination_type": "local", "tag": "t"}]}), 32, 32),
            (json!({"block_device_mapping_v2": [{"source_type": "blank", "destination_type": "local", "volume_type": "t"}]}), 67, 104),
        ];
        for (extra, first, last) in table {
            for minor in [1, 18, 19, 31, 32, 33, 36, 37, 41, 42, 51, 52, 56, 57, 62, 63, 66, 67, 73, 74, 89, 90, 93, 94, 104] {
                let mut server = with(extra.clone());
                if minor >= 37 && server.get("networks").is_none() {
                    server["networks"] = json!("none");
                }
                let inside = (*first..=*last).contains(&minor);
                let tag_again = extra.to_string().contains("\"tag\"")
                    && (minor == 32 || (33..37).contains(&minor) && extra.get("networks").is_some() || minor >= 42);
                assert_eq!(parse(server, minor).is_ok(), inside || tag_again, "{extra} in 2.{minor}");
            }
        }
    }

    #[test]
    fn networks_are_required_from_2_37_on() {
        assert!(parse(with(json!({})), 36).is_ok());
        assert!(parse(with(json!({})), 37).is_err());
    }

    #[test]
    fn contradictions_are_refused() {
        let id = "70a599e0-31e7-49b7-b260-868f441e862b";
        for bad in [
            json!({"networks": [{"port": id, "fixed_ip": "10.0.0.1"}]}),
            json!({"networks": [{"port": id}, {"port": id}]}),
            json!({"networks": [{"fixed_ip": "10.0.0.1"}]}),
            json!({"networks": [{"uuid": "not-one"}]}),
            json!({"min_count": 3, "max_count": 2}),
            json!({"min_count": 0}),
            json!({"accessIPv4": "::1"}),
            json!({"user_data": "!"}),
            json!({"metadata": {"a": 1}}),
            json!({"unknown": 1}),
            json!({"imageRef": "x"}),
        ] {
            assert!(parse(with(bad.clone()), 1).is_err(), "{bad}");
        }
        assert_eq!(parse(with(json!({"flavorRef": "http://x/flavors/7"})), 1).unwrap().flavor_ref, "7");
        assert_eq!(parse(with(json!({"flavorRef": 7})), 1).unwrap().flavor_ref, "7");
        assert_eq!(parse(with(json!({"min_count": "2"})), 1).unwrap().max_count, 2);
    }
}
