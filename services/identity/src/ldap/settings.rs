//! A domain's `ldap.*` options, in keystone's names, as they are used.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::{Error, Result};
use percent_encoding::percent_decode_str;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;

use super::client::{Place, Scope, Server, Tls};
use super::filter;
use super::trust::Anyone;

/// How long a call may take when `pool_connection_timeout` says nothing.
const PATIENCE: Duration = Duration::from_secs(10);
/// The authorities of the machine.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

pub struct Settings {
    /// Tried one after another.
    pub servers: Vec<Server>,
    pub user: Option<(String, String)>,
    pub scope: Scope,
    pub page: i32,
    pub pool: usize,
    pub pool_lifetime: Duration,
    pub logins: usize,
    pub users: Users,
    pub groups: Groups,
}

/// How entries become users.
pub struct Users {
    pub tree: String,
    /// With the class of objects.
    pub filter: String,
    pub id: String,
    pub name: String,
    /// Attributes of the directory and what they are called in a user.
    pub extra: Vec<(String, String)>,
    pub default_project: Option<String>,
    pub enabled: Enabled,
}

/// How an entry says whether its user is enabled.
pub enum Enabled {
    Always,
    Flag {
        attribute: String,
        default: bool,
        invert: bool,
    },
    /// Disabled when all bits of the mask are set.
    Mask {
        attribute: String,
        default: i64,
        mask: i64,
    },
    /// By being in a group, whose members are in an attribute.
    Member {
        dn: String,
        attribute: String,
    },
}

/// How entries become groups.
pub struct Groups {
    pub tree: String,
    pub filter: String,
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    pub extra: Vec<(String, String)>,
    pub member: String,
    /// Members are named by their ids and not by their DNs.
    pub members_are_ids: bool,
    /// Who is in a group of a group is in that too.
    pub nested: bool,
}

/// Reads options; the errors name them.
struct Options<'a>(&'a dyn Fn(&str) -> Value);

fn wrong(name: &str, why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("The domain's option ldap.{name} {why}."))
}

impl Options<'_> {
    /// None when it is not set.
    fn text(&self, name: &str) -> Result<Option<String>> {
        match (self.0)(name) {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
            Value::Number(number) => Ok(Some(number.to_string())),
            Value::Bool(flag) => Ok(Some(flag.to_string())),
            _ => Err(wrong(name, "is not a text")),
        }
    }

    fn required(&self, name: &str) -> Result<String> {
        self.text(name)?.ok_or_else(|| wrong(name, "is empty"))
    }

    fn flag(&self, name: &str) -> Result<bool> {
        let Some(text) = self.text(name)? else { return Ok(false) };
        http_api::query::parse_bool(&text).ok_or_else(|| wrong(name, "is not a boolean"))
    }

    fn number(&self, name: &str) -> Result<Option<i64>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let number: f64 = text.trim().parse().map_err(|_| wrong(name, "is not a number"))?;
        Ok(Some(number as i64))
    }

    /// A list, or a text with commas.
    fn list(&self, name: &str) -> Result<Vec<String>> {
        let items = match (self.0)(name) {
            Value::Null => Vec::new(),
            Value::String(text) => text.split(',').map(|item| item.trim().to_string()).collect(),
            Value::Array(items) => items.iter().map(|item| item.as_str().unwrap_or_default().trim().to_string()).collect(),
            _ => return Err(wrong(name, "is not a list")),
        };
        Ok(items.into_iter().filter(|item| !item.is_empty()).collect())
    }

    /// What narrows a search down: the class of objects and the filter.
    fn narrow(&self, class: &str, option: &str) -> Result<String> {
        let class = match self.text(class)? {
            Some(class) => filter::equal("objectClass", &class),
            None => String::new(),
        };
        let own = self.text(option)?.unwrap_or_default();
        let both = filter::all([class.as_str(), own.trim()]);
        if filter::encode(&both).is_none() { Err(wrong(option, "is no LDAP filter")) } else { Ok(both) }
    }

    fn pairs(&self, name: &str) -> Result<Vec<(String, String)>> {
        let pair = |item: String| match item.split_once(':') {
            Some((from, to)) => Ok((from.trim().to_string(), to.trim().to_string())),
            None => Err(wrong(name, "is not a list of pairs ATTRIBUTE:NAME")),
        };
        self.list(name)?.into_iter().map(pair).collect()
    }
}

impl Settings {
    /// From the options `ldap.*`, each with its default when it is not set. Reads the files that they name.
    pub fn read(get: &dyn Fn(&str) -> Value) -> Result<Settings> {
        let options = Options(get);
        let suffix = options.text("suffix")?.unwrap_or_default();
        let timeout = options.number("pool_connection_timeout")?.filter(|seconds| *seconds > 0);
        let timeout = timeout.map_or(PATIENCE, |seconds| Duration::from_secs(seconds.unsigned_abs()).min(Duration::from_secs(60)));
        let user = match options.text("user")? {
            // Without a password the bind would be nobody's, and succeed.
            Some(user) => Some((user, options.text("password")?.ok_or_else(|| wrong("password", "is empty"))?)),
            None => None,
        };
        let count = |name: &str, default: usize| -> Result<usize> {
            Ok(options.number(name)?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default).min(1000))
        };
        Ok(Settings {
            servers: servers(&options, timeout)?,
            user,
            scope: match options.text("query_scope")?.as_deref() {
                None | Some("one") => Scope::One,
                Some("sub") => Scope::Sub,
                Some(_) => return Err(wrong("query_scope", "is neither 'one' nor 'sub'")),
            },
            page: i32::try_from(options.number("page_size")?.unwrap_or(0)).unwrap_or(0).max(0),
            pool: count("pool_size", 10)?,
            pool_lifetime: Duration::from_secs(count("pool_connection_lifetime", 600)? as u64),
            logins: count("auth_pool_size", 100)?,
            users: users(&options, &suffix)?,
            groups: groups(&options, &suffix)?,
        })
    }
}

fn servers(options: &Options, timeout: Duration) -> Result<Vec<Server>> {
    let start = options.flag("use_tls")?;
    let mut config = None;
    let mut servers = Vec::new();
    for url in options.required("url")?.split([',', ' ']).map(str::trim).filter(|url| !url.is_empty()) {
        let bad = || wrong("url", "is not ldap://HOST[:PORT], ldaps://HOST[:PORT] or ldapi://SOCKET, whose slashes are %2F");
        if let Some(socket) = url.strip_prefix("ldapi://") {
            let path = percent_decode_str(socket.trim_end_matches('/')).decode_utf8().map_err(|_| bad())?;
            if start {
                return Err(wrong("use_tls", "does not go with ldapi"));
            }
            if !path.starts_with('/') || path.contains('\0') {
                return Err(bad());
            }
            servers.push(Server { place: Place::Socket(path.as_ref().into()), tls: Tls::None, timeout });
            continue;
        }
        let uri: axum::http::Uri = url.trim_end_matches('/').parse().map_err(|_| bad())?;
        let always = match uri.scheme_str() {
            Some("ldap") => false,
            Some("ldaps") if start => return Err(wrong("use_tls", "does not go with ldaps")),
            Some("ldaps") => true,
            _ => return Err(bad()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
        if (always || start) && config.is_none() {
            config = Some(trusting(options)?);
        }
        let tls = match &config {
            Some(config) if always => Tls::Always(config.clone()),
            Some(config) => Tls::Start(config.clone()),
            None => Tls::None,
        };
        let port = uri.port_u16().unwrap_or(if always { 636 } else { 389 });
        servers.push(Server { place: Place::Host { host: host.trim_matches(['[', ']']).to_string(), port }, tls, timeout });
    }
    if servers.is_empty() { Err(wrong("url", "is empty")) } else { Ok(servers) }
}

/// Whom TLS believes.
fn trusting(options: &Options) -> Result<Arc<rustls::ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| Error::internal("TLS versions").caused_by(e))?;
    let strict = match options.text("tls_req_cert")?.as_deref() {
        None | Some("demand") => true,
        Some("allow" | "never") => false,
        Some(_) => return Err(wrong("tls_req_cert", "is not one of 'demand', 'never', 'allow'")),
    };
    if !strict {
        let anyone = Arc::new(Anyone(provider));
        return Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth()));
    }
    let mut roots = RootCertStore::empty();
    let (option, files) = match (options.text("tls_cacertfile")?, options.text("tls_cacertdir")?) {
        (Some(file), _) => ("tls_cacertfile", vec![Path::new(&file).to_path_buf()]),
        (None, Some(directory)) => {
            let list = std::fs::read_dir(&directory).map_err(|e| wrong("tls_cacertdir", e))?;
            ("tls_cacertdir", list.filter_map(|entry| entry.ok().map(|entry| entry.path())).filter(|path| path.is_file()).collect())
        }
        (None, None) => ("tls_cacertfile", vec![Path::new(AUTHORITIES).to_path_buf()]),
    };
    for file in &files {
        let found = CertificateDer::pem_file_iter(file).map_err(|e| wrong(option, format!("cannot be read: {e}")))?;
        roots.add_parsable_certificates(found.filter_map(|certificate| certificate.ok()));
    }
    if roots.is_empty() {
        return Err(wrong(option, "holds no certificate"));
    }
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

fn users(options: &Options, suffix: &str) -> Result<Users> {
    let ignored = options.list("user_attribute_ignore")?;
    let wanted = |name: &str| !ignored.iter().any(|ignored| ignored == name);
    let mut extra = Vec::new();
    for (option, name) in [("user_mail_attribute", "email"), ("user_description_attribute", "description")] {
        if let Some(attribute) = options.text(option)?.filter(|_| wanted(name)) {
            extra.push((attribute, name.to_string()));
        }
    }
    extra.extend(options.pairs("user_additional_attribute_mapping")?.into_iter().filter(|(_, name)| wanted(name)));
    let tree = options.text("user_tree_dn")?.unwrap_or_else(|| format!("ou=Users,{suffix}"));
    let attribute = options.text("user_enabled_attribute")?.unwrap_or_else(|| "enabled".into());
    let default = options.text("user_enabled_default")?.unwrap_or_else(|| "True".into());
    let mask = options.number("user_enabled_mask")?.unwrap_or(0);
    let enabled = if options.flag("user_enabled_emulation")? {
        let attribute = if options.flag("user_enabled_emulation_use_group_config")? {
            options.text("group_member_attribute")?.unwrap_or_else(|| "member".into())
        } else {
            "member".into()
        };
        Enabled::Member { dn: options.text("user_enabled_emulation_dn")?.unwrap_or_else(|| format!("cn=enabled_users,{tree}")), attribute }
    } else if mask != 0 {
        let default = default.trim().parse().map_err(|_| wrong("user_enabled_default", "is not a number, which a mask wants"))?;
        Enabled::Mask { attribute, default, mask }
    } else if !wanted("enabled") {
        Enabled::Always
    } else {
        Enabled::Flag { attribute, default: default.eq_ignore_ascii_case("true"), invert: options.flag("user_enabled_invert")? }
    };
    Ok(Users {
        filter: options.narrow("user_objectclass", "user_filter")?,
        id: options.text("user_id_attribute")?.unwrap_or_else(|| "cn".into()),
        name: options.text("user_name_attribute")?.unwrap_or_else(|| "sn".into()),
        extra,
        default_project: options.text("user_default_project_id_attribute")?.filter(|_| wanted("default_project_id")),
        enabled,
        tree,
    })
}

fn groups(options: &Options, suffix: &str) -> Result<Groups> {
    let ignored = options.list("group_attribute_ignore")?;
    let wanted = |name: &str| !ignored.iter().any(|ignored| ignored == name);
    Ok(Groups {
        tree: options.text("group_tree_dn")?.unwrap_or_else(|| format!("ou=UserGroups,{suffix}")),
        filter: options.narrow("group_objectclass", "group_filter")?,
        id: options.text("group_id_attribute")?.unwrap_or_else(|| "cn".into()),
        name: options.text("group_name_attribute")?.unwrap_or_else(|| "ou".into()),
        description: options.text("group_desc_attribute")?.filter(|_| wanted("description")),
        extra: options.pairs("group_additional_attribute_mapping")?.into_iter().filter(|(_, name)| wanted(name)).collect(),
        member: options.text("group_member_attribute")?.unwrap_or_else(|| "member".into()),
        members_are_ids: options.flag("group_members_are_ids")?,
        nested: options.flag("group_ad_nesting")? && !options.flag("group_members_are_ids")?,
    })
}
