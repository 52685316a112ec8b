//! Locations: content that is in a store already, given to an image by its address.

use std::collections::BTreeMap;

use base::{Context, Error, Kind, Result};
use serde_json::{Map, Value, json};

use crate::imports::{TASK, submission};
use crate::model::{Image, Location, Status};
use crate::patch::{Change, Op};
use crate::signatures::is_signed;
use crate::stores::Store;
use crate::tasks::Task;
use crate::uploads::formats_given;
use crate::{Images, KIND, op, schema};

/// Upstream's default quota for one image.
const MAX_LOCATIONS: usize = 10;

/// What content must hash to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Validation {
    pub os_hash_algo: String,
    pub os_hash_value: String,
}

impl Validation {
    /// From `validation_data`, which may be empty.
    fn parse(data: &Map<String, Value>) -> Result<Option<Validation>> {
        let text = |name: &str| data.get(name).and_then(Value::as_str).map(str::to_string);
        let (algo, value) = match (text("os_hash_algo"), text("os_hash_value")) {
            (None, None) => return Ok(None),
            (Some(algo), Some(value)) => (algo, value.to_ascii_lowercase()),
            _ => return Err(Error::invalid("Of 'os_hash_algo' and 'os_hash_value' neither is given without the other.")),
        };
        let digits = match algo.as_str() {
            "md5" => 32,
            "sha256" => 64,
            "sha512" => 128,
            other => return Err(Error::invalid(format!("os_hash_algo: {other} is not computed here; one of md5, sha256, sha512 is."))),
        };
        if !value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Error::invalid(format!("os_hash_value ({value}) is not a valid hexadecimal value")));
        }
        if value.len() != digits {
            let text = format!("os_hash_value: ({value}) is not the correct size for ({algo}) (should be ({}) bytes)", digits / 2);
            return Err(Error::invalid(text));
        }
        Ok(Some(Validation { os_hash_algo: algo, os_hash_value: value }))
    }
}

impl Images {
    /// The addresses of an image's content, for other services.
    pub async fn location_list(&self, ctx: &Context, id: &str) -> Result<Value> {
        let image = self.image_for(ctx, id, "fetch_image_location").await?;
        Ok(self.locations_view(&image).into())
    }

    /// Gives a queued image content that a store has at this address: it is read, hashed and inspected like any other. `token` is the caller's.
    pub async fn location_add(&self, ctx: &Context, token: Option<&str>, id: &str, body: Map<String, Value>) -> Result<()> {
        schema::location_check(&body)?;
        let image = self.image_for(ctx, id, "add_image_location").await?;
        if image.status != Status::Queued {
            return Err(Error::conflict(format!("It's not allowed to add locations if image status is {}.", image.status.as_str())));
        }
        let url = body.get("url").and_then(Value::as_str).unwrap_or_default();
        let web = self.stores().of_web(url);
        // What lies in a store of ours belongs to images of any project; only services know which.
        if !ctx.has_role("service") && web.is_none() {
            return Err(Error::forbidden("http store must be enabled to use location API by normal user."));
        }
        formats_given(&image, "adding a location")?;
        let nothing = Map::new();
        let data = body.get("validation_data").and_then(Value::as_object).unwrap_or(&nothing);
        let validation = Validation::parse(data)?;
        let store = match web {
            Some(store) => self.0.sources.check(url).map(|_| store)?,
            None => self.stores().of_url(url).ok_or_else(|| Error::invalid(format!("No store has content at {url}.")))?.0,
        };
        let signed = self.signature_expected(token, &image).await?;
        let input = json!({"image_id": image.id, "loc_url": url, "validation_data": data});
        let task = Task::new("location_import", ctx, &image.id, input);
        let params = op::Params {
            task: task.id.clone(),
            method: op::LOCATION.into(),
            uri: Some(url.to_string()),
            stores: vec![store.id.clone()],
            all_must_succeed: true,
            validation,
            remote: None,
            signed,
        };
        self.core().store.write(submission(self.clone(), ctx.clone(), image, task, params)).await
    }

    /// Locations as images show them, where they are shown.
    pub fn locations_view(&self, image: &Image) -> Vec<Value> {
        let known = image.locations.iter().filter_map(|location| Some((self.stores().find(&location.store)?, location)));
        let view = |(store, location): (&Store, &Location)| {
            let mut metadata = location.metadata.clone();
            metadata.insert("store".into(), store.id.as_str().into());
            json!({"url": store.url(image, location), "metadata": metadata})
        };
        known.map(view).collect()
    }

    /// A change of `locations` in a patch: their order, what is noted about them, and which stores keep the content. What it brings
    /// is somebody else's, read by HTTP: what lies in a store of ours belongs to images of any project.
    pub(crate) async fn locations_change(&self, ctx: &Context, image: &mut Image, change: &Change) -> Result<()> {
        let all = change.value.as_ref().and_then(Value::as_array);
        if change.op == Op::Replace && all.is_some_and(Vec::is_empty) {
            return Err(Error::forbidden("Cannot set locations to empty list."));
        }
        let rule = if change.op == Op::Remove { "delete_image_location" } else { "set_image_location" };
        self.core().authorize(KIND, rule, ctx, image)?;
        if !self.core().config.flag("image.show_multiple_locations") {
            return Err(Error::forbidden("It's not allowed to add, replace or remove locations if locations are invisible."));
        }
        let brings = image.status == Status::Queued && change.op != Op::Remove && !image.properties.contains_key(TASK);
        if image.status != Status::Active && !brings {
            let status = image.status.as_str();
            return Err(Error::conflict(format!("It's not allowed to add, replace or remove locations if image status is {status}.")));
        }
        let before = image.locations.len();
        match (change.op, &change.value) {
            (Op::Remove, _) | (_, None) => {
                let count = image.locations.len();
                if count == 1 {
                    return Err(Error::forbidden("Cannot remove last location in the image."));
                }
                let at = position(change, count.saturating_sub(1)).filter(|at| *at < count);
                image.locations.remove(at.ok_or_else(|| Error::invalid("Invalid position for removing a location."))?);
            }
            (Op::Replace, Some(value)) => {
                let values: Vec<&Value> = value.as_array().into_iter().flatten().collect();
                let wanted = values.iter().map(|one| self.location_of(image, one)).collect::<Result<Vec<_>>>()?;
                for (i, one) in wanted.iter().enumerate() {
                    if wanted[..i].iter().any(|other| other.is(one)) {
                        return Err(Error::invalid(format!("A location in {} is named twice.", one.store)));
                    }
                }
                let had = image.locations.iter().filter(|have| wanted.iter().any(|one| one.is(have))).count();
                if !image.locations.is_empty() && (had < image.locations.len() || had < wanted.len()) {
                    return Err(Error::invalid("The image has locations: a replacement names the same ones."));
                }
                if image.locations.is_empty() {
                    self.locations_bring(image, &wanted, &values).await?;
                }
                image.locations = wanted;
            }
            (Op::Add | Op::AddNew, Some(value)) => {
                let one = self.location_of(image, value)?;
                let at = position(change, image.locations.len());
                let at = at.ok_or_else(|| Error::invalid("Invalid position for adding a location."))?;
                if image.locations.iter().any(|have| have.is(&one)) {
                    return Err(Error::invalid(format!("The location in {} is the image's already.", one.store)));
                }
                self.locations_bring(image, std::slice::from_ref(&one), &[value]).await?;
                image.locations.insert(at, one);
            }
        }
        if image.locations.len() > MAX_LOCATIONS.max(before) {
            let (count, max) = (image.locations.len(), MAX_LOCATIONS);
            let text = format!("The limit has been exceeded on the number of allowed image locations. Attempted: {count}, Maximum: {max}");
            return Err(Error::new(Kind::TooLarge, text));
        }
        Ok(())
    }

    /// What a value means: a location that the image has, or an address by HTTP.
    fn location_of(&self, image: &Image, value: &Value) -> Result<Location> {
        let url = value.get("url").and_then(Value::as_str).unwrap_or_default();
        let mut metadata = value.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
        metadata.remove("store");
        if let Some(store) = self.stores().of_web(url) {
            return Ok(Location { store: store.id.clone(), url: url.to_string(), metadata });
        }
        let there = |location: &&Location| self.stores().find(&location.store).is_some_and(|store| store.url(image, location) == url);
        let found = image.locations.iter().find(there).cloned().ok_or_else(|| Error::invalid(format!("Invalid location: {url}")))?;
        Ok(Location { metadata, ..found })
    }

    /// Asks the servers of new locations for what they have, and makes a queued image active with it.
    async fn locations_bring(&self, image: &mut Image, places: &[Location], values: &[&Value]) -> Result<()> {
        if image.status == Status::Queued {
            formats_given(image, "saving data")?;
            if is_signed(image) {
                return Err(Error::conflict("A signed image gets its content by an upload, an import or the locations API."));
            }
        }
        validation_take(image, values)?;
        for place in places {
            let size = self.web_size(image, &place.url).await?;
            image.size = Some(size);
        }
        image.status = Status::Active;
        Ok(())
    }

    /// Removes content from stores that no longer have it for the image.
    pub(crate) async fn locations_release(&self, image: &Image, before: &[Location]) {
        let Some(sha256) = &image.sha256 else { return };
        for gone in before.iter().filter(|location| !image.locations.iter().any(|left| left.is(location))) {
            let Some(store) = self.stores().find(&gone.store) else { continue };
            // What is left is the reconciler's in the worst case.
            if let Err(error) = self.content_release(store, store.key(&image.id, sha256)).await {
                tracing::warn!(image = image.id, store = gone.store, "content could not be removed: {}", error.chain());
            }
        }
    }
}

/// What new locations say of the content: it becomes what is known of the image, if nothing else is. Checked as the content is read.
fn validation_take(image: &mut Image, values: &[&Value]) -> Result<()> {
    let mut said: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in values.iter().filter_map(|value| value.get("validation_data")?.as_object()).flatten() {
        let value = value.as_str().unwrap_or_default().to_ascii_lowercase();
        if said.insert(name, value.clone()).is_some_and(|other| other != value) {
            return Err(Error::conflict(format!("Conflicting values for {name}")));
        }
    }
    let known = [("checksum", &image.checksum), ("os_hash_algo", &image.os_hash_algo), ("os_hash_value", &image.os_hash_value)];
    for (name, known) in known {
        match (known, said.get(name)) {
            (Some(known), Some(value)) if known != value => {
                return Err(Error::conflict(format!("{name} is already set with a different value")));
            }
            (Some(_), Some(_)) => drop(said.remove(name)),
            _ => {}
        }
    }
    if said.is_empty() {
        return Ok(());
    }
    if image.status != Status::Queued {
        let names = said.into_keys().collect::<Vec<_>>().join(", ");
        return Err(Error::conflict(format!("New value(s) for {names} may only be provided when image status is 'queued'")));
    }
    let hexadecimal = |name: &str, digits: usize| match said.get(name) {
        Some(value) if value.len() != digits || !value.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Err(Error::conflict(format!("{name} ({value}) is not a hexadecimal value of {} bytes", digits / 2)))
        }
        value => Ok(value.cloned()),
    };
    if said.get("os_hash_algo").is_some_and(|algo| algo != "sha512") {
        return Err(Error::conflict("os_hash_algo must be sha512"));
    }
    let (checksum, hash) = (hexadecimal("checksum", 32)?, hexadecimal("os_hash_value", 128)?);
    image.checksum = checksum.or(image.checksum.take());
    image.os_hash_algo = said.remove("os_hash_algo").or(image.os_hash_algo.take());
    image.os_hash_value = hash.or(image.os_hash_value.take());
    Ok(())
}

/// The position that a change names; `end` is what `-` stands for, and the last one there is.
fn position(change: &Change, end: usize) -> Option<usize> {
    match change.position.as_deref()? {
        "-" => Some(end),
        digits => digits.parse().ok().filter(|at| *at <= end),
    }
}
