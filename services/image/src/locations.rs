//! Locations: content that is in a store already, given to an image by its address.

use base::{Context, Error, Result};
use serde_json::{Map, Value, json};

use crate::imports::submission;
use crate::model::Status;
use crate::tasks::Task;
use crate::{Images, op, schema};

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
        let sha256 = image.sha256.as_deref().unwrap_or_default();
        let stores = image.locations.iter().filter_map(|location| self.stores().find(&location.store));
        Ok(stores.map(|store| json!({"url": store.url(sha256), "metadata": {"store": store.id}})).collect())
    }

    /// Gives a queued image content that a store has at this address: it is read, hashed and inspected like any other.
    pub async fn location_add(&self, ctx: &Context, id: &str, body: Map<String, Value>) -> Result<()> {
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
        };
        self.core().store.write(submission(self.clone(), ctx.clone(), image, task, params)).await
    }
}
