//! What a simulated guest says over its heartbeat's port, and to the others of its group.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use guest::client::{Client, Notice, Settings, TICK};
use guest::lines::Lines;
use guest::message::{Action, Event, Notification, VoteResult};
use guest::messaging;
use guest::scale::{Change, Outcome, SCALE};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

/// How guests behave, and what they were asked and told. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Manner(Arc<Mutex<Mood>>);

#[derive(Default)]
pub struct Mood {
    pub settings: Settings,
    /// Votes are refused for this reason.
    pub refuses: Option<String>,
    /// How long it thinks before it answers.
    pub slow: Duration,
    /// Neither votes nor notices are answered.
    pub deaf: bool,
    /// Challenges are not answered either.
    pub dead: bool,
    pub unwell: Option<(Action, String)>,
    /// There is no client yet.
    pub absent: bool,
    /// The client takes leave.
    pub leaves: bool,
    /// Guest, event, notification, and the time it was given without its margin.
    pub heard: Vec<(String, Event, Notification, Duration)>,
}

impl Manner {
    pub fn mood(&self) -> MutexGuard<'_, Mood> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    /// What a guest was asked and told so far.
    pub fn heard(&self, id: &str) -> Vec<(Event, Notification, Duration)> {
        self.mood().heard.iter().filter(|(of, ..)| of == id).map(|(_, event, kind, time)| (*event, *kind, *time)).collect()
    }
}

/// A client in a guest, until the guest is gone.
pub fn speak(id: String, manner: Manner, gone: impl Future<Output = ()> + Send + 'static) -> DuplexStream {
    let (ours, theirs) = duplex(4096);
    tokio::spawn(async move {
        tokio::select! {
            // Ends with its peer, whatever it was about to say.
            _ = converse(theirs, &id, &manner) => {}
            () = gone => {}
        }
    });
    ours
}

async fn converse(mut port: DuplexStream, id: &str, manner: &Manner) -> std::io::Result<()> {
    while manner.mood().absent {
        tokio::time::sleep(TICK / 10).await;
    }
    let began = tokio::time::Instant::now();
    let mut number = 0;
    let random = move || {
        number += 1;
        number
    };
    let mut client = Client::new(manner.mood().settings.clone(), Box::new(random));
    let mut buffer = [0u8; 1024];
    let mut thinking: Vec<(Duration, Notice)> = Vec::new();
    client.connected(began.elapsed());
    loop {
        let output = client.output();
        port.write_all(&output).await?;
        // Nobody moves it when its mood changes: it looks often.
        let read = tokio::time::timeout(TICK / 10, port.read(&mut buffer)).await;
        let now = began.elapsed();
        if manner.mood().dead {
            continue;
        }
        match read {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(n)) => client.received(&buffer[..n], now),
            Ok(Err(error)) => return Err(error),
            Err(_) => {}
        }
        client.tick(now);
        let mut mood = manner.mood();
        client.health(mood.unwell.clone());
        if mood.leaves {
            client.exit("the client ends".into());
        }
        for notice in client.notices() {
            thinking.push((now + mood.slow, notice.clone()));
            mood.heard.push((id.to_string(), notice.event, notice.notification, notice.until.saturating_sub(now)));
        }
        let answered = thinking.extract_if(.., |(at, _)| *at <= now);
        for (_, notice) in answered {
            match &mood.refuses {
                _ if mood.deaf => {}
                Some(why) if notice.notification == Notification::Revocable => client.answer(&notice, VoteResult::Reject, why.clone()),
                _ => client.answer(&notice, VoteResult::Accept, String::new()),
            }
        }
    }
}

/// The guests of a host as members of their groups. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Members(Arc<Mutex<HashMap<String, Member>>>);

#[derive(Default)]
struct Member {
    heard: Vec<Value>,
    /// Bytes that it is about to say.
    saying: Vec<u8>,
    scales: Scales,
}

/// How a guest takes it that it is to do with one vCPU more or less.
#[derive(Clone, Debug, Default)]
pub enum Scales {
    /// It has nobody who hears of it.
    #[default]
    Silent,
    /// It does, going down without this one, else without the highest.
    Does(Option<u32>),
    Refuses(String),
}

impl Members {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Member>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    /// What a guest was told, without envelopes.
    pub fn heard(&self, id: &str) -> Vec<Value> {
        self.all().get(id).map(|member| member.heard.clone()).unwrap_or_default()
    }
    /// It says this to its group, now or as soon as its host listens.
    pub fn say(&self, id: &str, data: &Value) {
        let line = messaging::line(messaging::GROUP, messaging::GROUP, data);
        self.all().entry(id.to_string()).or_default().saying.extend(line);
    }

    /// From now on it takes it so when it is to do with one vCPU more or less.
    pub fn scales(&self, id: &str, how: Scales) {
        self.all().entry(id.to_string()).or_default().scales = how;
    }

    fn scaled(&self, id: &str, question: &Value) -> Option<Vec<u8>> {
        let (change, _) = Change::asked(question)?;
        let how = self.all().get(id)?.scales.clone();
        let outcome = match (how, &change) {
            (Scales::Silent, _) => return None,
            (Scales::Refuses(why), _) => Outcome::Failed(why),
            (Scales::Does(_), Change::Up { cpu, online }) => Outcome::Done { cpu: Some(*cpu), online: online.clone() },
            (Scales::Does(this), Change::Down { online }) => {
                let gone = this.or(online.last().copied());
                Outcome::Done { cpu: gone, online: online.iter().copied().filter(|cpu| Some(*cpu) != gone).collect() }
            }
        };
        Some(messaging::line(SCALE, SCALE, &change.answer(&outcome)))
    }

    /// The guest's end of its port, until the guest is gone.
    pub(crate) fn join(&self, id: String, gone: impl Future<Output = ()> + Send + 'static) -> DuplexStream {
        let (ours, theirs) = duplex(4096);
        let members = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                // Ends with its peer.
                _ = members.converse(theirs, &id) => {}
                () = gone => {}
            }
        });
        ours
    }

    async fn converse(&self, mut port: DuplexStream, id: &str) -> std::io::Result<()> {
        let (mut lines, mut buffer) = (Lines::of(messaging::LONGEST), [0u8; 1024]);
        loop {
            let saying = std::mem::take(&mut self.all().entry(id.to_string()).or_default().saying);
            port.write_all(&saying).await?;
            // Nobody moves it when it is to say something: it looks often.
            let Ok(read) = tokio::time::timeout(TICK / 10, port.read(&mut buffer)).await else { continue };
            let mut bytes = match read? {
                0 => return Ok(()),
                n => &buffer[..n],
            };
            while let Some(line) = lines.next(&mut bytes) {
                let message: Value = serde_json::from_slice(&line).unwrap_or_default();
                if let Some(answer) = self.scaled(id, &message["data"]) {
                    port.write_all(&answer).await?;
                }
                self.all().entry(id.to_string()).or_default().heard.push(message["data"].clone());
            }
        }
    }
}
