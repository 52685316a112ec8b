//! Locations: content that is in a store already, given to an image by its address.

use base::{Context, Error, Result};
use serde_json::{Map, Value, json};

use crate::imports::submission;
use crate::model::{Image, Location, Status};
use crate::patch::{Change, Op};
use crate::tasks::Task;
use crate::{Images, KIND, op, schema};

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
        // What lies in a store belongs to images of any project; only services know which.
        if !ctx.has_role("service") {
            return Err(Error::forbidden("http store must be enabled to use location API by normal user."));
        }
        crate::uploads::formats_given(&image, "adding a location")?;
        let nothing = Map::new();
        let data = body.get("validation_data").and_then(Value::as_object).unwrap_or(&nothing);
        let validation = Validation::parse(data)?;
        let url = body.get("url").and_then(Value::as_str).unwrap_or_default();
        let (store, _) = self.stores().of_url(url).ok_or_else(|| Error::invalid(format!("No store has content at {url}.")))?;
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
        let sha256 = image.sha256.as_deref().unwrap_or_default();
        let stores = image.locations.iter().filter_map(|location| self.stores().find(&location.store));
        stores.map(|store| json!({"url": store.url(sha256), "metadata": {"store": store.id}})).collect()
    }

    /// A change of `locations` in a patch: their order, and which stores keep the content. It does not bring any: what lies in a
    /// store belongs to images of any project.
    pub(crate) fn locations_change(&self, ctx: &Context, image: &mut Image, change: &Change) -> Result<()> {
        let all = change.value.as_ref().and_then(Value::as_array);
        if change.op == Op::Replace && all.is_some_and(Vec::is_empty) {
            return Err(Error::forbidden("Cannot set locations to empty list."));
        }
        let rule = if change.op == Op::Remove { "delete_image_location" } else { "set_image_location" };
        self.core().authorize(KIND, rule, ctx, image)?;
        if !self.core().config.flag("image.show_multiple_locations") {
            return Err(Error::forbidden("It's not allowed to add, replace or remove locations if locations are invisible."));
        }
        if image.status != Status::Active {
            let status = image.status.as_str();
            return Err(Error::conflict(format!("It's not allowed to add, replace or remove locations if image status is {status}.")));
        }
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
                let wanted = value.as_array().into_iter().flatten().map(|one| self.location_of(image, one)).collect::<Result<Vec<_>>>()?;
                for (i, one) in wanted.iter().enumerate() {
                    if wanted[..i].contains(one) {
                        return Err(Error::invalid(format!("The location in {} is named twice.", one.store)));
                    }
                }
                // The content that goes has to be somebody's to take away.
                if image.locations.iter().any(|have| !wanted.contains(have)) {
                    self.core().authorize(KIND, "delete_image_location", ctx, image)?;
                }
                image.locations = wanted;
            }
            (Op::Add | Op::AddNew, Some(value)) => {
                let one = self.location_of(image, value)?;
                position(change, image.locations.len()).ok_or_else(|| Error::invalid("Invalid position for adding a location."))?;
                return Err(Error::invalid(format!("The location in {} is the image's already.", one.store)));
            }
        }
        Ok(())
    }

    /// The location of the image that a value means.
    fn location_of(&self, image: &Image, value: &Value) -> Result<Location> {
        let url = value.get("url").and_then(Value::as_str).unwrap_or_default();
        let found = self.stores().of_url(url).filter(|(_, sha256)| image.sha256.as_deref() == Some(sha256));
        let found = found.and_then(|(store, _)| image.locations.iter().find(|location| location.store == store.id));
        found.cloned().ok_or_else(|| Error::invalid(format!("Invalid location: {url}")))
    }

    /// Removes content from stores that no longer have it for the image.
    pub(crate) async fn locations_release(&self, image: &Image, before: &[Location]) {
        let Some(sha256) = &image.sha256 else { return };
        for gone in before.iter().filter(|location| !image.locations.contains(location)) {
            let Some(store) = self.stores().find(&gone.store) else { continue };
            // What is left is the reconciler's in the worst case.
            if let Err(error) = self.content_release(store, sha256).await {
                tracing::warn!(image = image.id, store = gone.store, "content could not be removed: {}", error.chain());
            }
        }
    }
}

/// The position that a change names; `end` is what `-` stands for, and the last one there is.
fn position(change: &Change, end: usize) -> Option<usize> {
    match change.position.as_deref()? {
        "-" => Some(end),
        digits => digits.parse().ok().filter(|at| *at <= end),
    }
}
