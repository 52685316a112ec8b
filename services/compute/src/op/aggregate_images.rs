//! Filling the image caches of an aggregate's hosts ahead of use. A host that cannot is passed over: the images come
//! to it when a server needs them.

use async_trait::async_trait;
use base::{Error, Result};
use events::Event;
use rpc::message::Request;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use store::Tx;
use task::{Effect, Operation, StepContext};

use crate::Compute;
use crate::db::aggregates::{Aggregate, aggregate_fetch_in};
use crate::db::nodes::node_by_name_in;

pub const KIND: &str = "compute.aggregate_images";

#[derive(Debug, Serialize, Deserialize)]
pub struct Params {
    pub number: i64,
    pub images: Vec<String>,
}

pub struct AggregateImages(pub Compute);

#[async_trait]
impl Operation for AggregateImages {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["cache"]
    }

    async fn run(&self, cx: &StepContext, _step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        let Some(aggregate) = self.0.core.store.read(|tx| aggregate_fetch_in(tx, params.number)).await? else {
            return Ok(Effect::finish_early());
        };
        let mut results = Vec::new();
        for host in &aggregate.hosts {
            if cx.cancelled() {
                break;
            }
            let mut result = Map::new();
            for image in &params.images {
                result.insert(image.clone(), json!(self.cache(cx, host, image).await));
            }
            results.push((host.clone(), result));
        }
        let ctx = cx.context.clone();
        Ok(Effect::none().commit(move |tx| {
            let record = |what: &str, payload: Value| {
                let event = Event::new(format!("aggregate.cache_images.{what}"), &aggregate.id, &ctx).payload(payload);
                events::record(tx, &event).map(drop)
            };
            record("start", shown(&aggregate))?;
            let total = results.len();
            for (index, (host, result)) in results.into_iter().enumerate() {
                let mut payload = shown(&aggregate);
                payload["host"] = json!(host);
                payload["images_cached"] = named(&result, &["cached"]);
                payload["images_failed"] = named(&result, &["error", "skipped"]);
                payload["index"] = json!(index + 1);
                payload["total"] = json!(total);
                record("progress", payload)?;
            }
            record("end", shown(&aggregate))
        }))
    }

    /// What is in a cache harms nobody and leaves by itself.
    async fn undo(&self, _cx: &StepContext, _step: &str) -> Result<Effect> {
        Ok(Effect::none())
    }

    fn failed(&self, _tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        tracing::warn!(aggregate = cx.resource_id, "images could not be cached: {}", error.chain());
        Ok(())
    }
}

impl AggregateImages {
    /// One image on one host: `cached`, `skipped` (the host is not there) or `error`.
    async fn cache(&self, cx: &StepContext, host: &str, image: &str) -> &'static str {
        let compute = &self.0;
        let asked = async {
            let node = compute.core.store.read(|tx| node_by_name_in(tx, host)).await?;
            let Some(node) = node.filter(|n| n.is_up() && compute.core.hosts.is_connected(&n.id)) else { return Ok("skipped") };
            let found = compute.images.boot_image(&cx.context, image).await?;
            found.content_known()?;
            if let Some(why) = found.content_unfit() {
                return Err(Error::conflict(why));
            }
            let (sha256, format) = compute.images.content_ready(cx, &found.sha256, &found.disk_format).await?;
            let request = Request::CacheImage { sha256, format };
            compute.core.hosts.ask(&node.id, request).await?;
            Ok::<_, Error>("cached")
        };
        asked.await.unwrap_or_else(|error| {
            tracing::info!(host, image, "an image could not be cached: {}", error.chain());
            "error"
        })
    }
}

fn shown(aggregate: &Aggregate) -> Value {
    json!({"id": aggregate.number, "uuid": aggregate.id, "name": aggregate.name, "hosts": aggregate.hosts, "metadata": aggregate.metadata})
}

fn named(result: &Map<String, Value>, words: &[&str]) -> Value {
    let fits = |word: &Value| word.as_str().is_some_and(|w| words.contains(&w));
    result.iter().filter(|(_, word)| fits(word)).map(|(image, _)| json!(image)).collect()
}
