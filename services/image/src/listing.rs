//! What a list request selects: filters, order and page.

use base::{Context, Error, Kind, Result, Timestamp};
use http_api::Query;
use store::{Dir, Select, Value};

use crate::db::images::{self as db, Listing};
use crate::model::{Image, Visibility};
use crate::{Images, KIND};

const DEFAULT_LIMIT: u64 = 25;
const SORT_KEYS: [&str; 8] = ["name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at"];
/// Filters that take `in:a,b` too.
const LISTS: [&str; 5] = ["name", "id", "status", "container_format", "disk_format"];
const NUMBERS: [&str; 4] = ["size", "virtual_size", "min_disk", "min_ram"];
const TEXTS: [&str; 4] = ["owner", "checksum", "os_hash_algo", "os_hash_value"];
/// Parameters that are no filters.
const OTHERS: [&str; 9] = ["limit", "marker", "sort", "sort_key", "sort_dir", "member_status", "tag", "visibility", "os_hidden"];

/// A page of images.
pub struct Page {
    pub images: Vec<Image>,
    /// Whether more follow.
    pub more: bool,
}

impl Images {
    pub async fn image_list(&self, ctx: &Context, query: &Query) -> Result<Page> {
        let project = ctx.project_id();
        self.core().authorize(KIND, "get_images", ctx, &[("project_id", project)])?;
        let admin = self.is_admin(ctx);
        let max = self.core().config.int("api.max_limit");
        let limit = limit(query)?.unwrap_or(DEFAULT_LIMIT).min(max);
        let select = conditions(visible(db::image_select(), query, project, admin)?, query)?;
        let marker = query.get("marker").map(str::to_string);
        let listing = Listing { select, order: order(query)?, marker: marker.clone(), limit: limit + 1 };
        let read = self.core().store.read(|tx| {
            // A marker the caller may not see is one that does not exist.
            if let Some(marker) = &marker
                && !db::image_fetch(tx, marker, project)?.is_some_and(|i| i.is_visible_to(project, admin))
            {
                return Ok(None);
            }
            db::image_list(tx, listing, project)
        });
        let unknown = || Error::invalid(format!("Invalid marker: no image found with ID {}", marker.clone().unwrap_or_default()));
        let mut images = read.await?.ok_or_else(unknown)?;
        let more = images.len() as u64 > limit;
        images.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        images.retain(|image| self.core().policy.check(KIND, "get_image", ctx, image));
        let more = more && !images.is_empty();
        Ok(Page { images, more })
    }
}

pub fn limit(query: &Query) -> Result<Option<u64>> {
    let Some(text) = query.get("limit") else { return Ok(None) };
    let number: i128 = text.trim().parse().map_err(|_| Error::invalid("limit param must be an integer"))?;
    match u64::try_from(number) {
        Ok(limit) => Ok(Some(limit)),
        Err(_) if number > 0 => Ok(Some(u64::MAX)),
        Err(_) => Err(Error::invalid("limit param must be positive")),
    }
}

/// Only what the caller may see, and of that what `visibility` and `member_status` ask for.
fn visible(mut select: Select, query: &Query, project: &str, admin: bool) -> Result<Select> {
    let member_status = query.get("member_status").unwrap_or("accepted");
    if !["pending", "accepted", "rejected", "all"].contains(&member_status) {
        return Err(Error::invalid(format!("Invalid status: {member_status}")));
    }
    if !admin {
        select = select.any(|mut or| {
            or = or.in_list("visibility", ["public", "community"]);
            if project.is_empty() {
                return or;
            }
            let shared =
                "image.visibility = 'shared' AND EXISTS (SELECT 1 FROM image_member m WHERE m.image_id = image.id AND m.member = ?";
            or = or.eq("owner", project);
            match member_status {
                "all" => or.cond(&format!("{shared})"), [Value::from(project)]),
                status => or.cond(&format!("{shared} AND m.status = ?)"), [Value::from(project), Value::from(status)]),
            }
        });
    }
    match query.get("visibility").filter(|v| !v.is_empty()) {
        Some("all") => {}
        Some(visibility) => select = select.eq("visibility", Visibility::parse(visibility)?.as_str()),
        // Community images are only found by those who look for them.
        None if project.is_empty() => select = select.ne("visibility", "community"),
        None => select = select.any(|or| or.eq("owner", project).ne("visibility", "community")),
    }
    Ok(select)
}

fn conditions(mut select: Select, query: &Query) -> Result<Select> {
    let hidden = flag("os_hidden", query.get("os_hidden").unwrap_or("false").to_ascii_lowercase().as_str())?;
    select = select.eq("os_hidden", hidden);
    for tag in query.all("tag") {
        let tagged = "EXISTS (SELECT 1 FROM image_tag t WHERE t.image_id = image.id AND t.value = ?)";
        select = select.cond(tagged, [Value::from(tag.trim())]);
    }
    let mut seen: Vec<&str> = Vec::new();
    for (name, _) in &query.0 {
        let name = name.as_str();
        if OTHERS.contains(&name) || seen.contains(&name) {
            continue;
        }
        seen.push(name);
        // Of a repeated filter the last value counts.
        select = filter(select, name, query.get(name).unwrap_or_default())?;
    }
    Ok(select)
}

fn filter(select: Select, name: &str, value: &str) -> Result<Select> {
    if name == "changes-since" {
        return if value.is_empty() {
            Ok(select)
        } else {
            Err(Error::invalid("The \"changes-since\" filter is no longer available on v2."))
        };
    }
    if let Some((column, greatest)) = bound(name) {
        let number: i64 = value.trim().parse().map_err(|_| Error::invalid("Unable to filter on a range with a non-numeric value."))?;
        return Ok(if greatest { select.le(column, number) } else { select.ge(column, number) });
    }
    if LISTS.contains(&name) {
        return match operator(value) {
            ("in", list) => Ok(select.in_list(name, values(list)?)),
            ("eq", text) => Ok(select.eq(name, text)),
            (other, _) => Err(Error::invalid(format!("Unable to filter by unknown operator '{other}'."))),
        };
    }
    if matches!(name, "created_at" | "updated_at") {
        return time(select, name, value);
    }
    if NUMBERS.contains(&name) {
        // What is no number equals none.
        return Ok(match value.trim().parse::<i64>() {
            Ok(number) => select.eq(name, number),
            Err(_) => select.cond("1 = 0", []),
        });
    }
    if TEXTS.contains(&name) {
        return Ok(select.eq(name, value));
    }
    if name == "protected" {
        return Ok(select.eq(name, flag(name, value)?));
    }
    let property = "EXISTS (SELECT 1 FROM image_property p WHERE p.image_id = image.id AND p.name = ? AND p.value = ?)";
    Ok(select.cond(property, [Value::from(name), Value::from(value)]))
}

/// `size_min`, `size_max`, ...: the column, and whether it is the greatest value.
fn bound(name: &str) -> Option<(&str, bool)> {
    let (column, greatest) = match name.strip_suffix("_max") {
        Some(column) => (column, true),
        None => (name.strip_suffix("_min")?, false),
    };
    NUMBERS.contains(&column).then_some((column, greatest))
}

fn flag(name: &str, value: &str) -> Result<bool> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Error::invalid(format!("Invalid value '{value}' for '{name}' filter. Valid values are 'true' or 'false'."))),
    }
}

/// `op:value`; without an operator it is `eq`.
fn operator(text: &str) -> (&str, &str) {
    text.split_once(':').unwrap_or(("eq", text))
}

fn time(select: Select, column: &str, text: &str) -> Result<Select> {
    let (operator, when) = match Timestamp::parse(text) {
        Some(when) => ("eq", Some(when)),
        None => {
            let (operator, text) = operator(text);
            (operator, Timestamp::parse(text))
        }
    };
    let bad = || Error::invalid(format!("Bad \"{column}\" query filter format. Use ISO 8601 DateTime notation."));
    // Clients only ever see whole seconds, so that is what they compare with.
    const SECOND: i64 = 1_000_000;
    let first = when.ok_or_else(bad)?.micros().div_euclid(SECOND) * SECOND;
    let next = first.saturating_add(SECOND);
    Ok(match operator {
        "gt" => select.ge(column, next),
        "gte" => select.ge(column, first),
        "lt" => select.lt(column, first),
        "lte" => select.lt(column, next),
        "eq" => select.ge(column, first).lt(column, next),
        "neq" => select.any(|or| or.lt(column, first).ge(column, next)),
        other => return Err(Error::invalid(format!("Unable to filter by unknown operator '{other}'."))),
    })
}

/// The values of `in:`: separated by commas, in double quotes where they hold one.
fn values(list: &str) -> Result<Vec<String>> {
    let wrong = |why: &str| Error::new(Kind::Invalid, format!("Invalid filter value {list}. {why}"));
    let mut found = Vec::new();
    let mut rest = list;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut value = String::new();
            let mut chars = quoted.char_indices();
            let end = loop {
                match chars.next() {
                    None => return Err(wrong("The quote is not closed.")),
                    Some((at, '"')) => break at + 1,
                    Some((_, '\\')) => match chars.next() {
                        Some((_, c)) => value.push(c),
                        None => return Err(wrong("The quote is not closed.")),
                    },
                    Some((_, c)) => value.push(c),
                }
            };
            found.push(value);
            rest = &quoted[end..];
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err(wrong("There is no comma after closing quotation mark."));
            }
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            if rest[..end].contains('"') {
                return Err(wrong("There is no comma before opening quotation mark."));
            }
            found.push(rest[..end].to_string());
            rest = &rest[end..];
        }
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok(found),
        }
    }
}

fn order(query: &Query) -> Result<Vec<(&'static str, Dir)>> {
    let key = |text: &str| {
        let text = text.trim();
        SORT_KEYS
            .into_iter()
            .find(|k| *k == text)
            .ok_or_else(|| Error::invalid(format!("Invalid sort key: {text}. It must be one of the following: {}.", SORT_KEYS.join(", "))))
    };
    let dir = |text: &str| match text.trim() {
        "asc" => Ok(Dir::Asc),
        "desc" => Ok(Dir::Desc),
        other => Err(Error::invalid(format!("Invalid sort direction: {other}"))),
    };
    let mut keys = Vec::new();
    let mut dirs = Vec::new();
    if let Some(sort) = query.get("sort") {
        if query.has("sort_key") || query.has("sort_dir") {
            return Err(Error::invalid("Old and new sorting syntax cannot be combined"));
        }
        for part in sort.trim().split(',') {
            let (name, direction) = part.split_once(':').unwrap_or((part, ""));
            keys.push(key(name)?);
            dirs.push(if direction.is_empty() { Dir::Desc } else { dir(direction)? });
        }
    } else {
        keys = query.all("sort_key").map(key).collect::<Result<_>>()?;
        dirs = query.all("sort_dir").map(dir).collect::<Result<_>>()?;
        if dirs.len() > 1 && dirs.len() != keys.len() {
            return Err(Error::invalid("Number of sort dirs does not match the number of sort keys"));
        }
    }
    // One direction counts for all keys, also for those that make the order whole.
    let common = if dirs.len() == 1 { dirs[0] } else { Dir::Desc };
    let mut order: Vec<(&'static str, Dir)> = Vec::new();
    for (i, key) in keys.into_iter().enumerate() {
        if order.iter().all(|(k, _)| *k != key) {
            order.push((key, dirs.get(i).copied().unwrap_or(common)));
        }
    }
    for key in ["created_at", "id"] {
        if order.iter().all(|(k, _)| *k != key) {
            order.push((key, common));
        }
    }
    Ok(order)
}
