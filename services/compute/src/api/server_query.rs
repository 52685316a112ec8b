//! The query string of server lists: what is asked, what the caller may ask, and what is an error in which version.

use base::{Context, Error, Result, Timestamp};
use http_api::query::{Query, parse_bool};
use http_api::{Request, Version};
use store::{Dir, Value};

use crate::Compute;
use crate::db::server_list::{SORT_KEYS, ServerFilter, pattern};
use crate::states;

/// A list as it will be answered.
#[derive(Debug)]
pub struct ListQuery {
    pub filter: ServerFilter,
    pub sort: Vec<(String, Dir)>,
    pub limit: u64,
    pub marker: Option<String>,
    pub ip: Option<regex_lite::Regex>,
    pub ip6: Option<regex_lite::Regex>,
    /// Nothing can match.
    pub nothing: bool,
}

/// Parameters every caller may use, and the version from which on.
const OPEN: &[(&str, u16)] = &[
    ("reservation_id", 1),
    ("name", 1),
    ("status", 1),
    ("image", 1),
    ("flavor", 1),
    ("ip", 1),
    ("changes-since", 1),
    ("all_tenants", 1),
    ("ip6", 5),
    ("tags", 26),
    ("tags-any", 26),
    ("not-tags", 26),
    ("not-tags-any", 26),
    ("changes-before", 66),
    ("locked", 73),
    ("availability_zone", 83),
    ("config_drive", 83),
    ("key_name", 83),
    ("created_at", 83),
    ("launched_at", 83),
    ("terminated_at", 83),
    ("power_state", 83),
    ("task_state", 83),
    ("vm_state", 83),
    ("progress", 83),
    ("user_id", 83),
    ("hostname", 90),
];

/// Parameters that exist in every version.
const KNOWN: &[&str] = &[
    "user_id",
    "project_id",
    "tenant_id",
    "launch_index",
    "image_ref",
    "image",
    "kernel_id",
    "ramdisk_id",
    "hostname",
    "key_name",
    "power_state",
    "vm_state",
    "task_state",
    "host",
    "node",
    "flavor",
    "reservation_id",
    "launched_at",
    "terminated_at",
    "availability_zone",
    "name",
    "display_name",
    "description",
    "display_description",
    "locked_by",
    "uuid",
    "root_device_name",
    "config_drive",
    "access_ip_v4",
    "access_ip_v6",
    "auto_disk_config",
    "progress",
    "sort_key",
    "sort_dir",
    "all_tenants",
    "soft_deleted",
    "deleted",
    "status",
    "changes-since",
    "ip",
    "ip6",
    "created_at",
    "limit",
    "marker",
];

/// Names of other tables, which are never filters.
const TABLES: &[&str] =
    &["block_device_mapping", "services", "metadata", "system_metadata", "info_cache", "security_groups", "pci_devices"];

/// Sort keys that are accepted and mean nothing, until 2.75 refuses them.
const IGNORED_SORT: &[&str] = &[
    "architecture",
    "cell_name",
    "cleaned",
    "default_ephemeral_device",
    "default_swap_device",
    "deleted",
    "deleted_at",
    "disable_terminate",
    "ephemeral_gb",
    "ephemeral_key_uuid",
    "id",
    "key_data",
    "launched_on",
    "locked",
    "memory_mb",
    "os_type",
    "reservation_id",
    "root_gb",
    "shutdown_terminate",
    "user_data",
    "vcpus",
    "vm_mode",
];

/// Filters by pattern, and their columns.
const PATTERNS: &[(&str, &str)] = &[
    ("name", "display_name"),
    ("display_name", "display_name"),
    ("description", "display_description"),
    ("display_description", "display_description"),
    ("hostname", "hostname"),
    ("key_name", "key_name"),
    ("root_device_name", "root_device_name"),
    ("access_ip_v4", "access_ip_v4"),
    ("access_ip_v6", "access_ip_v6"),
    ("availability_zone", "availability_zone"),
    ("node", "node"),
    ("locked_by", "locked_by"),
    ("reservation_id", "reservation_id"),
];

/// Filters by value, and their columns.
const VALUES: &[(&str, &str)] = &[
    ("user_id", "user_id"),
    ("uuid", "id"),
    ("image", "image_ref"),
    ("image_ref", "image_ref"),
    ("host", "host"),
    ("flavor", "flavor_id"),
];

fn v(minor: u16) -> Version {
    Version::new(2, minor)
}

impl Compute {
    /// Reads the query of `GET /servers` (`detail`: of `/servers/detail`).
    pub fn server_list_query(&self, req: &Request, detail: bool) -> Result<ListQuery> {
        let (ctx, query, version) = (&req.ctx, &req.query, req.version);
        check_shape(query, version)?;
        let admin = self.may("os_compute_api:servers:allow_all_filters", ctx, &[("project_id", ctx.project_id())]);
        let allowed = |name: &str| admin || OPEN.iter().any(|(n, from)| *n == name && version >= v(*from));
        let get = |name: &'static str| query.get(name).filter(|_| allowed(name));
        if let Some((name, _)) = query.0.iter().find(|(k, _)| admin && (TABLES.contains(&k.as_str()) || k.starts_with('_'))) {
            return Err(Error::invalid(format!("Invalid filter field: {name}.")));
        }
        let max = self.core.config.int("api.max_limit");
        let limit = match query.get("limit") {
            Some(text) => text.parse::<u64>().map_err(|_| Error::invalid("limit must be a non-negative integer"))?.min(max),
            None => max,
        };
        let mut list = ListQuery {
            filter: ServerFilter::default(),
            sort: sort(query, version, ctx)?,
            limit,
            marker: query.get("marker").map(str::to_string),
            ip: get("ip").map(|t| pattern("ip", t)).transpose()?,
            ip6: get("ip6").map(|t| pattern("ip6", t)).transpose()?,
            nothing: false,
        };
        for (name, column) in PATTERNS {
            if let Some(text) = get(name) {
                list.filter.matching.push((column, pattern(name, text)?));
            }
        }
        for (name, column) in VALUES {
            if let Some(text) = get(name) {
                list.filter.exact.push((column, Value::from(text)));
            }
        }
        numbers(&mut list, &get)?;
        self.states(&mut list, req, &get)?;
        times(&mut list, &get)?;
        tags(&mut list, &get);
        self.whose(&mut list, ctx, query, detail, allowed("all_tenants"), &get)?;
        Ok(list)
    }

    /// Status, vm state, task state and whether deleted ones are shown.
    fn states<'a>(&self, list: &mut ListQuery, req: &'a Request, get: &impl Fn(&'static str) -> Option<&'a str>) -> Result<()> {
        let statuses: Vec<&str> = req.query.all("status").collect();
        let mut only_deleted = false;
        if !statuses.is_empty() {
            let (vms, tasks) = states::states_of(&statuses);
            if vms.is_empty() {
                if req.version >= v(38) {
                    return Err(Error::invalid("Invalid status value"));
                }
                list.nothing = true;
            }
            if vms == ["deleted"] {
                if !req.ctx.is_admin() {
                    return Err(Error::forbidden("Only administrators may list deleted instances"));
                }
                only_deleted = true;
            }
            list.filter.among.push(("vm_state", vms.iter().map(|s| s.to_string()).collect()));
            if let Some(tasks) = tasks {
                list.filter.among.push(("task_state", tasks.iter().map(|s| s.to_string()).collect()));
            }
        } else {
            if let Some(state) = get("vm_state") {
                list.filter.exact.push(("vm_state", Value::from(state)));
            }
            if let Some(state) = get("task_state") {
                list.filter.exact.push(("task_state", Value::from(state)));
            }
        }
        let changes = get("changes-since").is_some() || get("changes-before").is_some();
        list.filter.deleted = match get("deleted") {
            _ if only_deleted => Some(true),
            Some(text) => Some(parse_bool(text).unwrap_or(false)),
            None if changes => None,
            None => Some(false),
        };
        if let Some(text) = get("locked") {
            let locked = parse_bool(text).ok_or_else(|| Error::invalid(format!("Unrecognized value '{text}' for locked")))?;
            list.filter.locked = Some(locked);
        }
        Ok(())
    }

    /// Whose servers.
    fn whose<'a>(
        &self,
        list: &mut ListQuery,
        ctx: &Context,
        query: &Query,
        detail: bool,
        may_ask: bool,
        get: &impl Fn(&'static str) -> Option<&'a str>,
    ) -> Result<()> {
        let all = match query.get("all_tenants").filter(|_| may_ask) {
            None => false,
            Some("") => true,
            Some(text) => parse_bool(text).ok_or_else(|| Error::invalid(format!("Unrecognized value '{text}' for all_tenants")))?,
        };
        if all {
            let rule =
                if detail { "os_compute_api:servers:detail:get_all_tenants" } else { "os_compute_api:servers:index:get_all_tenants" };
            self.authorize(rule, ctx, &[("project_id", ctx.project_id())])?;
            if let Some(project) = get("project_id").or_else(|| get("tenant_id")) {
                list.filter.exact.push(("project_id", Value::from(project)));
            }
        } else if ctx.project_id().is_empty() {
            list.filter.exact.push(("user_id", Value::from(&ctx.user_id)));
        } else {
            list.filter.exact.push(("project_id", Value::from(ctx.project_id())));
        }
        Ok(())
    }
}

/// What is wrong whoever asks.
fn check_shape(query: &Query, version: Version) -> Result<()> {
    let tag = |name: &str| version >= v(26) && matches!(name, "tags" | "tags-any" | "not-tags" | "not-tags-any");
    for (name, text) in &query.0 {
        let known = KNOWN.contains(&name.as_str())
            || TABLES.contains(&name.as_str())
            || tag(name)
            || (name == "changes-before" && version >= v(66))
            || (name == "locked" && version >= v(73))
            || name.starts_with('_');
        if !known && version >= v(75) {
            return Err(Error::invalid(format!("Additional properties are not allowed ('{name}' was unexpected)")));
        }
        if matches!(name.as_str(), "changes-since") || (name == "changes-before" && version >= v(66)) {
            let bad = || Error::invalid(format!("Invalid input for query parameters {name}. Value: {text}. '{text}' is not a 'date-time'"));
            Timestamp::parse(text).ok_or_else(bad)?;
        }
        if PATTERNS.iter().any(|(n, _)| n == name) {
            pattern(name, text)?;
        }
    }
    Ok(())
}

fn sort(query: &Query, version: Version, ctx: &Context) -> Result<Vec<(String, Dir)>> {
    let mut dirs = Vec::new();
    for text in query.all("sort_dir") {
        dirs.push(match text.trim() {
            "asc" => Dir::Asc,
            "desc" => Dir::Desc,
            other => return Err(Error::invalid(format!("Unknown sort direction, must be one of: asc, desc (not '{other}')"))),
        });
    }
    let default = dirs.first().copied().unwrap_or(Dir::Desc);
    let mut sort = Vec::new();
    for (i, key) in query.all("sort_key").enumerate() {
        let key = key.trim();
        let ignored = IGNORED_SORT.contains(&key) && !(key == "locked" && version >= v(73));
        if ignored && version < v(75) {
            continue;
        }
        if ignored || !SORT_KEYS.iter().any(|(k, _)| *k == key) {
            return Err(Error::invalid(format!(
                "Invalid input for query parameters sort_key. Value: {key}. '{key}' is not a key to sort by"
            )));
        }
        if matches!(key, "host" | "node") && !ctx.is_admin() {
            return Err(Error::forbidden(format!("Only administrators can sort servers by {key}")));
        }
        sort.push((key.to_string(), dirs.get(i).copied().unwrap_or(default)));
    }
    if sort.is_empty() {
        sort.push(("created_at".into(), default));
    }
    Ok(sort)
}

fn numbers<'a>(list: &mut ListQuery, get: &impl Fn(&'static str) -> Option<&'a str>) -> Result<()> {
    for name in ["power_state", "progress", "launch_index"] {
        if let Some(text) = get(name) {
            match text.parse::<i64>() {
                Ok(n) => list.filter.exact.push((name, Value::from(n))),
                Err(_) => list.nothing = true,
            }
        }
    }
    if let Some(text) = get("config_drive") {
        let on = parse_bool(text).unwrap_or(!text.is_empty());
        list.filter.exact.push(("config_drive", Value::from(if on { "True" } else { "" })));
    }
    if let Some(text) = get("auto_disk_config") {
        list.filter.exact.push(("auto_disk_config", Value::from(parse_bool(text).unwrap_or(false))));
    }
    for name in ["kernel_id", "ramdisk_id"] {
        // No server has one.
        list.nothing |= get(name).is_some_and(|text| !text.is_empty());
    }
    for name in ["created_at", "launched_at", "terminated_at"] {
        if let Some(text) = get(name) {
            match Timestamp::parse(text) {
                Some(at) => list.filter.exact.push((name, Value::from(at))),
                None => list.nothing = true,
            }
        }
    }
    Ok(())
}

fn times<'a>(list: &mut ListQuery, get: &impl Fn(&'static str) -> Option<&'a str>) -> Result<()> {
    list.filter.changed_since = get("changes-since").and_then(Timestamp::parse);
    list.filter.changed_before = get("changes-before").and_then(Timestamp::parse);
    match (list.filter.changed_since, list.filter.changed_before) {
        (Some(since), Some(before)) if before < since => {
            Err(Error::invalid("The value of changes-since must be less than or equal to changes-before."))
        }
        _ => Ok(()),
    }
}

fn tags<'a>(list: &mut ListQuery, get: &impl Fn(&'static str) -> Option<&'a str>) {
    let split = |text: Option<&str>| text.map(|t| t.split(',').map(str::to_string).collect()).unwrap_or_default();
    list.filter.tags = split(get("tags"));
    list.filter.tags_any = split(get("tags-any"));
    list.filter.not_tags = split(get("not-tags"));
    list.filter.not_tags_any = split(get("not-tags-any"));
}
