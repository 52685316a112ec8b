//! `/v1/stream`: every change as it happens, for those who would otherwise ask again and again.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use base::{Error, Result};
use events::{Feed, Recorded};
use futures_util::stream;
use http_api::{Request, Response, json, response};
use serde_json::{Value as Json, json};
use tokio::sync::OwnedSemaphorePermit;

use crate::carry::webhook::body;
use crate::{EVENTS, Faults};

/// Events sent at a time.
const BATCH: u64 = 200;
/// A follower hears of us this often at least.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A stream ends after this time, so that nobody follows for longer than his token and his rights last; its follower comes back
/// with the last id he saw.
const LENGTH: Duration = Duration::from_secs(600);
/// The longest a poll waits.
const POLL: u64 = 60;

/// With `Accept: text/event-stream` a stream of server-sent events; else one answer, for which `timeout` seconds are waited.
/// Either begins behind `last_id` (or the header Last-Event-ID), or now.
pub async fn follow(faults: Faults, req: Request) -> Result<Response> {
    faults.core.authorize("fault", "fm_api:event_log:get", &req.ctx, &())?;
    let permit = faults.followers.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Error::unavailable("too many follow the stream already"))?;
    let last = req.header("last-event-id").or_else(|| req.query.get("last_id"));
    let last: Option<i64> = last
        .map(|text| text.parse().ok().filter(|id| *id >= 0).ok_or_else(|| Error::invalid(format!("'{text}' is no id of an event"))))
        .transpose()?;
    let timeout = req.query.int("timeout")?.unwrap_or(0).min(POLL);
    let (feed, reset) = match last {
        None => (Feed::live(&faults.core.store).await?, false),
        Some(last) => match Feed::after(&faults.core.store, last).await? {
            Some(feed) => (feed, false),
            None => (Feed::live(&faults.core.store).await?, true),
        },
    };
    let streams = req.header("accept").is_some_and(|accept| accept.contains("text/event-stream"));
    if streams { Ok(streamed(feed, reset, permit)) } else { polled(feed, reset, Duration::from_secs(timeout)).await }
}

/// The next events of ours; none when there are none.
async fn next(feed: &mut Feed) -> Result<Vec<Recorded>> {
    let mut batch = feed.next(BATCH).await?;
    if let Some(last) = batch.last().map(|event| event.seq) {
        feed.commit(last).await?;
    }
    batch.retain(|event| event.event.event_type.starts_with(EVENTS));
    Ok(batch)
}

async fn polled(mut feed: Feed, reset: bool, timeout: Duration) -> Result<Response> {
    let until = Instant::now() + timeout;
    let mut events = next(&mut feed).await?;
    while events.is_empty() && !reset && Instant::now() < until {
        // Running into the time limit is the answer that there is nothing.
        let _ = tokio::time::timeout(until - Instant::now(), feed.wait()).await;
        events = next(&mut feed).await?;
    }
    let events: Vec<Json> = events.iter().map(body).collect();
    json(200, &json!({"events": events, "last_id": feed.position(), "reset": reset}))
}

struct Follower {
    feed: Feed,
    since: Instant,
    reset: bool,
    begun: bool,
    /// Given back when the stream ends, however it does.
    _permit: OwnedSemaphorePermit,
}

fn streamed(feed: Feed, reset: bool, permit: OwnedSemaphorePermit) -> Response {
    let follower = Follower { feed, since: Instant::now(), reset, begun: false, _permit: permit };
    let pieces = stream::unfold(follower, |mut follower| async move {
        let piece = follower.piece().await?;
        Some((Ok::<_, Infallible>(Bytes::from(piece)), follower))
    });
    let mut response = response::with_type(200, "text/event-stream", Body::from_stream(pieces));
    response::set_header(&mut response, "cache-control", "no-store");
    response
}

impl Follower {
    /// What is sent next; none ends the stream.
    async fn piece(&mut self) -> Option<String> {
        if !self.begun {
            self.begun = true;
            // A follower who missed something must read everything again.
            let missed = if self.reset { "event: reset\ndata: {}\n" } else { "" };
            return Some(format!("retry: 1000\nid: {}\n{missed}\n", self.feed.position()));
        }
        let heard = Instant::now();
        while self.since.elapsed() < LENGTH {
            let events = next(&mut self.feed).await.ok()?;
            if !events.is_empty() {
                return Some(events.iter().map(sent).collect());
            }
            let Some(left) = KEEP_ALIVE.checked_sub(heard.elapsed()) else { return Some(": still here\n\n".into()) };
            let _ = tokio::time::timeout(left, self.feed.wait()).await;
        }
        None
    }
}

fn sent(event: &Recorded) -> String {
    let body = body(event);
    format!("id: {}\nevent: {}\ndata: {body}\n\n", event.seq, body["type"].as_str().unwrap_or_default())
}
