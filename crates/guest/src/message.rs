//! The messages, as JSON objects on a line each.

use serde_json::{Map, Value, json};

pub const VERSION: u64 = 3;
pub const REVISION: u64 = 1;
/// Bytes of a message.
pub const LONGEST: usize = 1056;
pub const SHORTEST: usize = 32;
/// Characters of a guest's name, of its explanations, and of any other word.
pub const NAME: usize = 64;
pub const LOG: usize = 224;
/// What a guest cuts its explanations to.
pub const LOG_SENT: usize = 192;
const WORD: usize = 32;

fn word_of<T: Copy + PartialEq>(words: &[(T, &'static str)], value: T) -> &'static str {
    words.iter().find(|(v, _)| *v == value).map_or("unknown", |(_, word)| word)
}

fn value_of<T: Copy>(words: &[(T, &'static str)], word: &str) -> Option<T> {
    words.iter().find(|(_, w)| *w == word).map(|(value, _)| *value)
}

/// What is about to be done with a guest, or has been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Stop,
    Reboot,
    Pause,
    Unpause,
    Suspend,
    Resume,
    ResizeBegin,
    ResizeEnd,
    LiveMigrateBegin,
    LiveMigrateEnd,
    ColdMigrateBegin,
    ColdMigrateEnd,
}

impl Event {
    pub const WORDS: [(Event, &'static str); 12] = [
        (Event::Stop, "stop"),
        (Event::Reboot, "reboot"),
        (Event::Pause, "pause"),
        (Event::Unpause, "unpause"),
        (Event::Suspend, "suspend"),
        (Event::Resume, "resume"),
        (Event::ResizeBegin, "resize_begin"),
        (Event::ResizeEnd, "resize_end"),
        (Event::LiveMigrateBegin, "live_migrate_begin"),
        (Event::LiveMigrateEnd, "live_migrate_end"),
        (Event::ColdMigrateBegin, "cold_migrate_begin"),
        (Event::ColdMigrateEnd, "cold_migrate_end"),
    ];

    pub fn word(self) -> &'static str {
        word_of(&Self::WORDS, self)
    }
    pub fn parse(word: &str) -> Option<Event> {
        value_of(&Self::WORDS, word)
    }
    /// Something that is about to be done; else it is done, and there is nothing to vote on.
    pub fn begins(self) -> bool {
        !matches!(self, Event::Unpause | Event::Resume | Event::ResizeEnd | Event::LiveMigrateEnd | Event::ColdMigrateEnd)
    }
}

/// Whether the guest may refuse, or get ready only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notification {
    Revocable,
    Irrevocable,
}

impl Notification {
    pub const WORDS: [(Notification, &'static str); 2] =
        [(Notification::Revocable, "revocable"), (Notification::Irrevocable, "irrevocable")];

    pub fn word(self) -> &'static str {
        word_of(&Self::WORDS, self)
    }
    pub fn parse(word: &str) -> Option<Notification> {
        value_of(&Self::WORDS, word)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteResult {
    Accept,
    Reject,
    Complete,
    Timeout,
    Error,
    Unknown,
}

impl VoteResult {
    pub const WORDS: [(VoteResult, &'static str); 6] = [
        (VoteResult::Accept, "accept"),
        (VoteResult::Reject, "reject"),
        (VoteResult::Complete, "complete"),
        (VoteResult::Timeout, "timeout"),
        (VoteResult::Error, "error"),
        (VoteResult::Unknown, "unknown"),
    ];

    pub fn word(self) -> &'static str {
        word_of(&Self::WORDS, self)
    }
    pub fn parse(word: &str) -> Option<VoteResult> {
        value_of(&Self::WORDS, word)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Healthy,
    Unhealthy,
}

impl Health {
    pub const WORDS: [(Health, &'static str); 2] = [(Health::Healthy, "healthy"), (Health::Unhealthy, "unhealthy")];

    pub fn word(self) -> &'static str {
        word_of(&Self::WORDS, self)
    }
    pub fn parse(word: &str) -> Option<Health> {
        value_of(&Self::WORDS, word)
    }
}

/// What is to be done about a guest that is not well; the later the harder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    Unknown,
    None,
    Log,
    Reboot,
    Stop,
}

impl Action {
    pub const WORDS: [(Action, &'static str); 5] =
        [(Action::Unknown, "unknown"), (Action::None, "none"), (Action::Log, "log"), (Action::Reboot, "reboot"), (Action::Stop, "stop")];

    pub fn word(self) -> &'static str {
        word_of(&Self::WORDS, self)
    }
    pub fn parse(word: &str) -> Option<Action> {
        value_of(&Self::WORDS, word)
    }
}

/// What a guest says of itself when it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Init {
    pub invocation_id: u64,
    pub name: String,
    pub interval_ms: u64,
    pub vote_secs: u64,
    pub shutdown_notice_secs: u64,
    pub suspend_notice_secs: u64,
    pub resume_notice_secs: u64,
    pub restart_secs: u64,
    /// What is to be done when it is silent.
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Init(Init),
    InitAck { invocation_id: u64 },
    Challenge { number: u64 },
    Response { number: u64, health: Health, action: Action, log: String },
    Notify { invocation_id: u64, event: Event, notification: Notification, timeout_ms: u64 },
    Answer { invocation_id: u64, event: Event, notification: Notification, result: VoteResult, log: String },
    Exit { log: String },
    Nack { invocation_id: u64, log: String },
}

/// Why a line is no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is thrown away.
    Nonsense,
    Version {
        invocation_id: u64,
        version: u64,
    },
    Missing {
        invocation_id: u64,
        key: &'static str,
    },
    Unsupported {
        invocation_id: u64,
        kind: String,
    },
}

impl Refused {
    /// The answer to who sent it.
    pub fn nack(&self) -> Option<Message> {
        let (invocation_id, log) = match self {
            Refused::Nonsense => return None,
            Refused::Version { invocation_id, version } => (invocation_id, format!("Bad version: {version}, expect version: {VERSION}")),
            Refused::Missing { invocation_id, key } => (invocation_id, format!("failed to parse {key}")),
            Refused::Unsupported { invocation_id, kind } => (invocation_id, format!("unsupported message type: {kind}")),
        };
        Some(Message::Nack { invocation_id: *invocation_id, log })
    }
}

/// At most so many characters, and none that could break a log's line.
pub fn plain(text: &str, most: usize) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect()
}

struct Fields<'a> {
    map: &'a Map<String, Value>,
    invocation_id: u64,
}

impl Fields<'_> {
    fn missing(&self, key: &'static str) -> Refused {
        Refused::Missing { invocation_id: self.invocation_id, key }
    }
    fn number(&self, key: &'static str) -> Result<u64, Refused> {
        self.map.get(key).and_then(Value::as_u64).ok_or_else(|| self.missing(key))
    }
    fn text(&self, key: &'static str, most: usize) -> Result<&str, Refused> {
        let text = self.map.get(key).and_then(Value::as_str);
        text.filter(|t| t.len() <= most).ok_or_else(|| self.missing(key))
    }
    /// An explanation: nobody needs one to understand the rest.
    fn log(&self) -> String {
        plain(self.map.get("log_msg").and_then(Value::as_str).unwrap_or_default(), LOG)
    }
    fn word<T>(&self, key: &'static str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Refused> {
        parse(self.text(key, WORD)?).ok_or_else(|| self.missing(key))
    }
}

impl Message {
    /// The message of a line. `newer`: versions above ours are read as if they were ours.
    pub fn parse(line: &[u8], newer: bool) -> Result<Message, Refused> {
        if !(SHORTEST..=LONGEST).contains(&line.len()) {
            return Err(Refused::Nonsense);
        }
        let Ok(Value::Object(map)) = serde_json::from_slice::<Value>(line) else { return Err(Refused::Nonsense) };
        let invocation_id = map.get("invocation_id").and_then(Value::as_u64).unwrap_or(0);
        let f = Fields { map: &map, invocation_id };
        // Nobody answers a nack, whatever is wrong with it.
        let nack = map.get("msg_type").and_then(Value::as_str) == Some("nack");
        let bad = |refused: Refused| if nack { Refused::Nonsense } else { refused };
        let version = f.number("version").map_err(bad)?;
        if version < VERSION || (version > VERSION && !newer) {
            return Err(bad(Refused::Version { invocation_id, version }));
        }
        f.number("revision").map_err(bad)?;
        let kind = f.text("msg_type", WORD).map_err(bad)?;
        f.number("sequence").map_err(bad)?;
        Self::read(kind, &f).map_err(bad)
    }

    fn read(kind: &str, f: &Fields) -> Result<Message, Refused> {
        let id = || f.number("invocation_id");
        Ok(match kind {
            "init" => Message::Init(Init {
                invocation_id: id()?,
                name: plain(f.text("name", NAME)?, NAME),
                interval_ms: f.number("heartbeat_interval_ms")?,
                vote_secs: f.number("vote_secs")?,
                shutdown_notice_secs: f.number("shutdown_notice_secs")?,
                suspend_notice_secs: f.number("suspend_notice_secs")?,
                resume_notice_secs: f.number("resume_notice_secs")?,
                restart_secs: f.number("restart_secs")?,
                action: f.word("corrective_action", Action::parse)?,
            }),
            "init_ack" => Message::InitAck { invocation_id: id()? },
            "challenge" => Message::Challenge { number: f.number("heartbeat_challenge")? },
            "challenge_response" => Message::Response {
                number: f.number("heartbeat_response")?,
                health: f.word("heartbeat_health", Health::parse)?,
                action: f.word("corrective_action", Action::parse)?,
                log: f.log(),
            },
            "action_notify" => Message::Notify {
                invocation_id: id()?,
                event: f.word("event_type", Event::parse)?,
                notification: f.word("notification_type", Notification::parse)?,
                timeout_ms: f.number("timeout_ms")?,
            },
            "action_response" => Message::Answer {
                invocation_id: id()?,
                event: f.word("event_type", Event::parse)?,
                notification: f.word("notification_type", Notification::parse)?,
                result: f.word("vote_result", VoteResult::parse)?,
                log: f.log(),
            },
            "exit" => Message::Exit { log: f.log() },
            "nack" => Message::Nack { invocation_id: f.invocation_id, log: f.log() },
            other => return Err(Refused::Unsupported { invocation_id: f.invocation_id, kind: plain(other, WORD) }),
        })
    }

    fn kind(&self) -> &'static str {
        match self {
            Message::Init(_) => "init",
            Message::InitAck { .. } => "init_ack",
            Message::Challenge { .. } => "challenge",
            Message::Response { .. } => "challenge_response",
            Message::Notify { .. } => "action_notify",
            Message::Answer { .. } => "action_response",
            Message::Exit { .. } => "exit",
            Message::Nack { .. } => "nack",
        }
    }

    /// The message on a line of its own, between two newlines.
    pub fn line(&self, sequence: u64) -> Vec<u8> {
        let mut object = json!({"version": VERSION, "revision": REVISION, "msg_type": self.kind(), "sequence": sequence});
        let fields = match self {
            Message::Init(init) => json!({
                "invocation_id": init.invocation_id,
                "name": plain(&init.name, NAME),
                "heartbeat_interval_ms": init.interval_ms,
                "vote_secs": init.vote_secs,
                "shutdown_notice_secs": init.shutdown_notice_secs,
                "suspend_notice_secs": init.suspend_notice_secs,
                "resume_notice_secs": init.resume_notice_secs,
                "restart_secs": init.restart_secs,
                "corrective_action": init.action.word(),
            }),
            Message::InitAck { invocation_id } => json!({"invocation_id": invocation_id}),
            Message::Challenge { number } => json!({"heartbeat_challenge": number}),
            Message::Response { number, health, action, log } => json!({
                "heartbeat_response": number,
                "heartbeat_health": health.word(),
                "corrective_action": action.word(),
                "log_msg": sent(log),
            }),
            Message::Notify { invocation_id, event, notification, timeout_ms } => json!({
                "invocation_id": invocation_id,
                "event_type": event.word(),
                "notification_type": notification.word(),
                "timeout_ms": timeout_ms,
            }),
            Message::Answer { invocation_id, event, notification, result, log } => json!({
                "invocation_id": invocation_id,
                "event_type": event.word(),
                "notification_type": notification.word(),
                "vote_result": result.word(),
                "log_msg": sent(log),
            }),
            Message::Exit { log } => json!({"log_msg": sent(log)}),
            Message::Nack { invocation_id, log } => json!({"invocation_id": invocation_id, "log_msg": sent(log)}),
        };
        if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
            object.extend(fields);
        }
        format!("\n{object}\n").into_bytes()
    }
}

/// What is sent of an explanation: few enough bytes, whatever characters they are of.
fn sent(log: &str) -> String {
    let text = plain(log, LOG_SENT);
    let mut end = text.len().min(LOG_SENT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn init() -> Init {
        Init {
            invocation_id: 7,
            name: "vm".into(),
            interval_ms: 1000,
            vote_secs: 9,
            shutdown_notice_secs: 9,
            suspend_notice_secs: 9,
            resume_notice_secs: 14,
            restart_secs: 601,
            action: Action::Reboot,
        }
    }

    fn every() -> Vec<Message> {
        let (event, notification) = (Event::LiveMigrateBegin, Notification::Revocable);
        vec![
            Message::Init(init()),
            Message::InitAck { invocation_id: 7 },
            Message::Challenge { number: 99 },
            Message::Response { number: 99, health: Health::Unhealthy, action: Action::Stop, log: "no disk".into() },
            Message::Notify { invocation_id: 8, event, notification, timeout_ms: 9000 },
            Message::Answer { invocation_id: 8, event, notification, result: VoteResult::Reject, log: "busy".into() },
            Message::Exit { log: "bye".into() },
            Message::Nack { invocation_id: 0, log: "failed to parse name".into() },
        ]
    }

    fn body(message: &Message) -> Value {
        serde_json::from_slice(&message.line(5)).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        for message in every() {
            let line = message.line(5);
            assert!(line.starts_with(b"\n{") && line.ends_with(b"}\n") && line.len() <= LONGEST + 2);
            assert_eq!(Message::parse(&line[1..line.len() - 1], false).unwrap(), message);
        }
        assert_eq!(
            body(&Message::Challenge { number: 99 }),
            json!({"version": 3, "revision": 1, "msg_type": "challenge", "sequence": 5, "heartbeat_challenge": 99})
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        for (message, optional) in every().iter().map(|m| (m, ["log_msg"])) {
            let whole = body(message);
            for key in whole.as_object().unwrap().keys() {
                for wrong in [Value::Null, json!(1.5), json!(-1), json!("x".repeat(300)), json!([])] {
                    let mut broken = whole.clone();
                    broken[key] = wrong;
                    let read = Message::parse(broken.to_string().as_bytes(), false);
                    if optional.contains(&key.as_str()) || (matches!(message, Message::Nack { .. }) && key == "invocation_id") {
                        assert!(read.is_ok(), "{broken}");
                    } else if matches!(message, Message::Nack { .. }) {
                        let silent = matches!(read, Err(Refused::Nonsense | Refused::Missing { .. }));
                        assert!(silent, "{broken} {read:?}");
                    } else {
                        let nack = read.unwrap_err().nack().unwrap();
                        let Message::Nack { log, .. } = nack else { unreachable!() };
                        assert_eq!(log, format!("failed to parse {key}"), "{broken}");
                    }
                }
            }
        }
    }

    #[test]
    fn another_version_or_kind_is_told_of() {
        let nack = |value: Value, newer| Message::parse(value.to_string().as_bytes(), newer).map_err(|e| e.nack());
        let mut old = body(&Message::Init(init()));
        old["version"] = json!(2);
        let said = nack(old.clone(), false).unwrap_err().unwrap();
        assert_eq!(said, Message::Nack { invocation_id: 7, log: "Bad version: 2, expect version: 3".into() });
        assert!(nack(old.clone(), true).is_err(), "a guest does not take old ones either");
        old["version"] = json!(4);
        assert!(nack(old.clone(), false).is_err() && nack(old, true).is_ok());
        let mut other = body(&Message::Exit { log: String::new() });
        other["msg_type"] = json!("dance");
        let said = nack(other.clone(), false).unwrap_err().unwrap();
        assert_eq!(said, Message::Nack { invocation_id: 0, log: "unsupported message type: dance".into() });
        other["msg_type"] = json!("nack");
        other["version"] = json!(2);
        assert_eq!(nack(other, false), Err(None), "a nack is never answered");
        for nonsense in ["[]", "{}", "{\"version\":3}", "\u{0}\u{1}\u{2}", "nonsense that is longer than thirty-two bytes, and no JSON"] {
            assert_eq!(Message::parse(nonsense.as_bytes(), false), Err(Refused::Nonsense), "{nonsense}");
        }
    }

    #[test]
    fn explanations_are_cut_and_keep_to_their_line() {
        let long = Message::Exit { log: format!("a\nb\u{7}{}", "ü".repeat(300)) };
        let line = long.line(1);
        assert!(line.len() < 400 && line.iter().filter(|b| **b == b'\n').count() == 2);
        let Message::Exit { log } = Message::parse(&line[1..line.len() - 1], false).unwrap() else { unreachable!() };
        assert!(log.starts_with("a b ü") && log.len() <= LOG_SENT, "{log}");
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
            let _ = Message::parse(&bytes, false);
        }
        #[test]
        fn no_change_of_a_good_message_does(pick in 0usize..8, changes in proptest::collection::vec((0usize..400, any::<u8>()), 0..6), cut in 0usize..500) {
            let mut line = every()[pick].line(1);
            for (at, byte) in changes {
                if let Some(place) = line.get_mut(at) {
                    *place = byte;
                }
            }
            line.truncate(cut);
            if let Err(refused) = Message::parse(&line, false) {
                if let Some(nack) = refused.nack() {
                    prop_assert!(nack.line(1).len() <= LONGEST + 2);
                }
            }
        }
    }
}
