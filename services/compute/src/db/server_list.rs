//! Listing servers: filters the store can answer, in an order it can page by, and those that need every row looked at.

use base::{Error, Result, Timestamp};
use regex_lite::Regex;
use store::{Dir, Select, Tx, Value};

use super::servers::{SERVER_COLUMNS, Server, server_row};

/// Rows fetched at once when a filter has to look at each.
const CHUNK: u64 = 1000;

/// What a list asks for. Absent filters do not narrow.
#[derive(Clone, Debug, Default)]
pub struct ServerFilter {
    /// Column and value it must have.
    pub exact: Vec<(&'static str, Value)>,
    /// Column and texts of which it must have one.
    pub among: Vec<(&'static str, Vec<String>)>,
    /// Column and pattern found anywhere in it.
    pub matching: Vec<(&'static str, Regex)>,
    pub deleted: Option<bool>,
    pub locked: Option<bool>,
    pub changed_since: Option<Timestamp>,
    pub changed_before: Option<Timestamp>,
    /// All of these.
    pub tags: Vec<String>,
    /// One of these at least.
    pub tags_any: Vec<String>,
    /// Not all of these.
    pub not_tags: Vec<String>,
    /// None of these.
    pub not_tags_any: Vec<String>,
}

impl ServerFilter {
    fn select(&self) -> Select {
        let mut select = Select::new(format!("SELECT {SERVER_COLUMNS} FROM server"));
        for (column, value) in &self.exact {
            select = select.eq(column, value.clone());
        }
        for (column, values) in &self.among {
            select = select.in_list(column, values);
        }
        if let Some(deleted) = self.deleted {
            select = select.eq("deleted", deleted);
        }
        match self.locked {
            Some(true) => select = select.cond("locked_by IS NOT NULL", []),
            Some(false) => select = select.cond("locked_by IS NULL", []),
            None => {}
        }
        if let Some(since) = self.changed_since {
            select = select.ge("updated_at", since);
        }
        if let Some(before) = self.changed_before {
            select = select.le("updated_at", before);
        }
        let marks = |n: usize| vec!["?"; n].join(", ");
        let values = |tags: &[String]| tags.iter().map(Value::from).collect::<Vec<_>>();
        let counted = |tags: &[String]| {
            let mut unique = tags.to_vec();
            unique.sort();
            unique.dedup();
            unique
        };
        let count = |n: usize| format!("(SELECT COUNT(*) FROM server_tag t WHERE t.server_id = server.id AND t.tag IN ({}))", marks(n));
        if !self.tags.is_empty() {
            let tags = counted(&self.tags);
            select = select.cond(&format!("{} = {}", count(tags.len()), tags.len()), values(&tags));
        }
        if !self.tags_any.is_empty() {
            select = select.cond(&format!("{} > 0", count(self.tags_any.len())), values(&self.tags_any));
        }
        if !self.not_tags.is_empty() {
            let tags = counted(&self.not_tags);
            select = select.cond(&format!("{} < {}", count(tags.len()), tags.len()), values(&tags));
        }
        if !self.not_tags_any.is_empty() {
            select = select.cond(&format!("{} = 0", count(self.not_tags_any.len())), values(&self.not_tags_any));
        }
        select
    }

    fn matches(&self, server: &Server) -> bool {
        self.matching.iter().all(|(column, pattern)| text_of(server, column).is_some_and(|text| pattern.is_match(&text)))
    }
}

/// The texts patterns are matched with.
fn text_of(s: &Server, column: &str) -> Option<String> {
    match column {
        "display_name" => Some(s.display_name.clone()),
        "display_description" => s.display_description.clone(),
        "hostname" => Some(s.hostname.clone()),
        "key_name" => s.key_name.clone(),
        "root_device_name" => s.root_device_name.clone(),
        "access_ip_v4" => s.access_ip_v4.clone(),
        "access_ip_v6" => s.access_ip_v6.clone(),
        "availability_zone" => s.availability_zone.clone(),
        "node" => s.node.clone(),
        "locked_by" => s.locked_by.clone(),
        "reservation_id" => Some(s.reservation_id.clone()),
        _ => None,
    }
}

/// Keys servers can be sorted by, and the column of each; an empty one sorts nothing.
pub const SORT_KEYS: &[(&str, &str)] = &[
    ("access_ip_v4", "access_ip_v4"),
    ("access_ip_v6", "access_ip_v6"),
    ("auto_disk_config", "auto_disk_config"),
    ("availability_zone", "availability_zone"),
    ("config_drive", "config_drive"),
    ("created_at", "created_at"),
    ("display_description", "display_description"),
    ("display_name", "display_name"),
    ("host", "host"),
    ("hostname", "hostname"),
    ("image_ref", "image_ref"),
    ("instance_type_id", "flavor_id"),
    ("kernel_id", ""),
    ("key_name", "key_name"),
    ("launch_index", "launch_index"),
    ("launched_at", "launched_at"),
    ("locked_by", "locked_by"),
    ("locked", "locked_by"),
    ("node", "node"),
    ("power_state", "power_state"),
    ("progress", "progress"),
    ("project_id", "project_id"),
    ("ramdisk_id", ""),
    ("root_device_name", "root_device_name"),
    ("task_state", "task_state"),
    ("terminated_at", "terminated_at"),
    ("updated_at", "updated_at"),
    ("user_id", "user_id"),
    ("uuid", "id"),
    ("vm_state", "vm_state"),
];

fn value_of(s: &Server, column: &str) -> Value {
    match column {
        "access_ip_v4" => Value::from(&s.access_ip_v4),
        "access_ip_v6" => Value::from(&s.access_ip_v6),
        "auto_disk_config" => Value::from(s.auto_disk_config),
        "availability_zone" => Value::from(&s.availability_zone),
        "config_drive" => Value::from(&s.config_drive),
        "created_at" => Value::from(s.created_at),
        "display_description" => Value::from(&s.display_description),
        "display_name" => Value::from(&s.display_name),
        "host" => Value::from(&s.host),
        "hostname" => Value::from(&s.hostname),
        "image_ref" => Value::from(&s.image_ref),
        "flavor_id" => Value::from(&s.flavor_id),
        "key_name" => Value::from(&s.key_name),
        "launch_index" => Value::from(s.launch_index),
        "launched_at" => Value::from(s.launched_at),
        "locked_by" => Value::from(&s.locked_by),
        "node" => Value::from(&s.node),
        "power_state" => Value::from(s.power_state),
        "progress" => Value::from(s.progress),
        "project_id" => Value::from(&s.project_id),
        "root_device_name" => Value::from(&s.root_device_name),
        "task_state" => Value::from(&s.task_state),
        "terminated_at" => Value::from(s.terminated_at),
        "updated_at" => Value::from(s.updated_at),
        "user_id" => Value::from(&s.user_id),
        "vm_state" => Value::from(&s.vm_state),
        _ => Value::from(&s.id),
    }
}

/// The columns of an order, made unique by creation time and id.
pub fn order(keys: &[(String, Dir)]) -> Vec<(&'static str, Dir)> {
    let last = keys.first().map_or(Dir::Desc, |(_, dir)| *dir);
    let mut columns: Vec<(&'static str, Dir)> = Vec::new();
    let named = keys.iter().filter_map(|(key, dir)| SORT_KEYS.iter().find(|(k, _)| k == key).map(|(_, column)| (*column, *dir)));
    for (column, dir) in named.chain([("created_at", last), ("id", last)]) {
        if !column.is_empty() && !columns.iter().any(|(c, _)| *c == column) {
            columns.push((column, dir));
        }
    }
    columns
}

/// One page, at most `limit` servers behind `marker`, that also pass `keep`.
pub fn server_list_in(
    tx: &Tx,
    filter: &ServerFilter,
    keys: &[(String, Dir)],
    marker: Option<&Server>,
    limit: u64,
    mut keep: impl FnMut(&Tx, &Server) -> Result<bool>,
    looks: bool,
) -> Result<Vec<Server>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let order = order(keys);
    let place = |s: &Server| order.iter().map(|(column, _)| value_of(s, column)).collect::<Vec<_>>();
    let mut after = marker.map(&place);
    let looks = looks || !filter.matching.is_empty();
    let mut found = Vec::new();
    loop {
        let size = if looks { CHUNK } else { limit };
        let mut select = filter.select().order(&order).limit(size);
        if let Some(after) = after.take() {
            select = select.after(after);
        }
        let rows = select.fetch(tx, server_row)?;
        let full = rows.len() as u64 == size;
        after = rows.last().map(&place);
        for server in rows {
            if filter.matches(&server) && keep(tx, &server)? {
                found.push(server);
                if found.len() as u64 == limit {
                    return Ok(found);
                }
            }
        }
        if !full || !looks {
            return Ok(found);
        }
    }
}

/// A pattern of a filter; one that is none is the caller's mistake.
pub fn pattern(name: &str, text: &str) -> Result<Regex> {
    Regex::new(text)
        .map_err(|_| Error::invalid(format!("Invalid input for query parameters {name}. Value: {text}. '{text}' is not a 'regex'")))
}
