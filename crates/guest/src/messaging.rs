//! Messages between the servers of a group, and on how many vCPUs a guest does with, over the virtio-serial port `cgcs.messaging`
//! (version 2): the host's side of one guest's port.
//!
//! Each line is an envelope with addresses of services in the guest; those of groups speak as `cgcs.server_grp`, that of vCPUs as
//! `cgcs.scale`.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use crate::lines::Lines;
use crate::scale::{self, Change, Outcome, SCALE};

/// The port's name, and the address of the daemon that has it in the guest.
pub const PORT: &str = "cgcs.messaging";
/// The address of server groups, on both sides.
pub const GROUP: &str = "cgcs.server_grp";
pub const VERSION: u64 = 2;
/// Bytes of a line.
pub const LONGEST: usize = 4096;
/// Characters of an address, and of an instance's name.
pub const ADDRESS: usize = 16;
pub const NAME: usize = 20;
/// Bytes that a broadcast may carry.
pub const BROADCAST: usize = 3050;
/// Messages that wait for a guest which does not read; then the oldest are lost.
pub const QUEUE: usize = 64;

/// What a guest wants of its group.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// The others shall hear this.
    Broadcast(String),
    /// It asks what the members are.
    Query(u64),
    /// It answers how it does with one vCPU more (`up`) or less.
    Scaled { up: bool, outcome: Outcome },
}

/// What a guest is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Tell {
    Broadcast {
        source: String,
        text: String,
    },
    Status {
        seq: u64,
        of: Value,
    },
    StatusDone {
        seq: u64,
    },
    Notification(Value),
    /// It is asked to do with one vCPU more or less.
    Scale(Change),
}

/// The line of a message between two addresses.
pub fn line(from: &str, to: &str, data: &Value) -> Vec<u8> {
    let envelope = json!({"version": VERSION, "source_addr": from, "dest_addr": to, "data": data});
    let mut line = b"\n".to_vec();
    line.extend(envelope.to_string().bytes());
    line.push(b'\n');
    line
}

fn to_group(data: &Value) -> Vec<u8> {
    line(GROUP, GROUP, data)
}

fn broadcast(source: &str, text: &str) -> Vec<u8> {
    to_group(&json!({"version": VERSION, "msg_type": "broadcast", "source_instance": source, "data": text}))
}

/// The message with what it can do without taken out of the object at `place`, until it fits.
fn fitting(mut message: Value, place: &str) -> Vec<u8> {
    let mut bytes = to_group(&message);
    for key in ["image_meta", "metadata", "fault", "display_name"] {
        if bytes.len() <= LONGEST {
            break;
        }
        if let Some(field) = message.pointer_mut(place).and_then(|object| object.get_mut(key)) {
            *field = if field.is_object() { json!({}) } else { json!("") };
            bytes = to_group(&message);
        }
    }
    bytes
}

/// One guest's port. Given bytes and what is to be told, it gives lines and what was said.
#[derive(Debug)]
pub struct Port {
    lines: Lines,
    /// Lines that wait, those that answer a query with its number.
    queue: VecDeque<(Option<u64>, Vec<u8>)>,
    said: Vec<Said>,
    /// The newest query.
    seq: Option<u64>,
    lost: u64,
}

impl Default for Port {
    fn default() -> Port {
        Port { lines: Lines::of(LONGEST), queue: VecDeque::new(), said: Vec::new(), seq: None, lost: 0 }
    }
}

impl Port {
    /// Takes what the guest has sent: at most `most` messages of it. What is left of the bytes is for the next time.
    pub fn received(&mut self, bytes: &mut &[u8], most: usize) {
        for _ in 0..most {
            let Some(line) = self.lines.next(bytes) else { return };
            // Nobody to tell what is wrong with what is no object.
            let Ok(Value::Object(envelope)) = serde_json::from_slice::<Value>(&line) else { continue };
            self.take(&envelope);
        }
    }

    pub fn said(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.said)
    }

    /// The next line for the guest.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        self.queue.pop_front().map(|(_, line)| line)
    }

    /// How many messages the guest has not read in time.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn put(&mut self, answers: Option<u64>, line: Vec<u8>) {
        self.queue.push_back((answers, line));
        while self.queue.len() > QUEUE {
            self.queue.pop_front();
            self.lost += 1;
        }
    }

    pub fn tell(&mut self, tell: Tell) {
        match tell {
            Tell::Broadcast { source, text } => self.put(None, broadcast(&source, &text)),
            // A newer query has ended the one that these answer.
            Tell::Status { seq, .. } | Tell::StatusDone { seq } if self.seq != Some(seq) => {}
            Tell::Status { seq, of } => {
                let message = json!({"version": VERSION, "msg_type": "status_response", "seq": seq, "data": of});
                self.put(Some(seq), fitting(message, "/data"));
            }
            Tell::StatusDone { seq } => {
                let message = json!({"version": VERSION, "msg_type": "status_response_done", "seq": seq});
                self.put(Some(seq), to_group(&message));
            }
            Tell::Notification(data) => {
                let message = json!({"version": VERSION, "msg_type": "notification", "data": data});
                self.put(None, fitting(message, "/data/payload"));
            }
            Tell::Scale(change) => self.put(None, line(SCALE, SCALE, &change.request(scale::TIMEOUT))),
        }
    }

    fn take_scaled(&mut self, envelope: &Map<String, Value>) {
        let data = envelope.get("data").and_then(Value::as_object);
        let parsed = match (bad_version(envelope), data) {
            (Some(why), _) => Err(why),
            (None, None) => Err("failed to parse data".into()),
            (None, Some(data)) => bad_version(data).map_or_else(|| scale::answered(data), Err),
        };
        match parsed {
            Ok((up, outcome)) => self.said.push(Said::Scaled { up, outcome }),
            Err(why) => self.put(None, line(SCALE, SCALE, &json!({"version": VERSION, "msg_type": "nack", "log_msg": why}))),
        }
    }

    fn take(&mut self, envelope: &Map<String, Value>) {
        let word = |of: &Map<String, Value>, key: &str| of.get(key).and_then(Value::as_str).map(String::from);
        match word(envelope, "dest_addr").as_deref() {
            None | Some(GROUP) => {}
            Some(SCALE) => return self.take_scaled(envelope),
            // Of a service that is not here: as good as sent to nobody.
            Some(_) => return,
        }
        let from = word(envelope, "source_addr").filter(|from| from.len() <= ADDRESS).unwrap_or_else(|| GROUP.into());
        let data = envelope.get("data").and_then(Value::as_object);
        let kind = data.and_then(|data| word(data, "msg_type")).unwrap_or_else(|| "unknown".into());
        let parsed = match (bad_version(envelope), data) {
            (Some(why), _) => Err(why),
            (None, None) => Err("failed to parse data".into()),
            (None, Some(data)) => bad_version(data).map_or_else(|| parse(&kind, data), Err),
        };
        match parsed {
            Ok(said) => {
                if let Said::Query(seq) = said {
                    self.seq = Some(seq);
                    self.queue.retain(|(answers, _)| answers.is_none());
                }
                self.said.push(said);
            }
            Err(why) => {
                let kind: String = kind.chars().take(64).collect();
                let nack = json!({"version": VERSION, "msg_type": "nack", "orig_msg_type": kind, "log_msg": why});
                self.put(None, line(GROUP, &from, &nack));
            }
        }
    }
}

fn bad_version(of: &Map<String, Value>) -> Option<String> {
    match of.get("version") {
        Some(version) if version.as_u64() == Some(VERSION) => None,
        Some(Value::Number(version)) => Some(format!("Bad version: {version}, expect version: {VERSION}")),
        _ => Some("failed to parse version".into()),
    }
}

fn parse(kind: &str, data: &Map<String, Value>) -> Result<Said, String> {
    match kind {
        "broadcast" => {
            let text = data.get("data").and_then(Value::as_str).ok_or("failed to parse data")?;
            // As text that is written with many escapes, it may be too long for others though it was not for the host.
            if text.len() > BROADCAST || broadcast(&"x".repeat(NAME), text).len() > LONGEST {
                return Err(format!("data is too long, it may have {BROADCAST} bytes"));
            }
            Ok(Said::Broadcast(text.into()))
        }
        "status_query" => data.get("seq").and_then(Value::as_u64).map(Said::Query).ok_or_else(|| "failed to parse seq".into()),
        "unknown" => Err("failed to parse msg_type".into()),
        other => Err(format!("unsupported message type: {}", other.chars().take(32).collect::<String>())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(port: &mut Port, value: &Value) {
        port.received(&mut format!("\n{value}\n").as_bytes(), 10);
    }
    fn group(data: Value) -> Value {
        json!({"version": 2, "source_addr": GROUP, "dest_addr": GROUP, "data": data})
    }
    fn heard(port: &mut Port) -> Vec<Value> {
        std::iter::from_fn(|| port.pop())
            .map(|line| {
                assert!(line.len() <= LONGEST && line.starts_with(b"\n") && line.ends_with(b"\n"));
                assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 2);
                serde_json::from_slice(&line).unwrap()
            })
            .collect()
    }

    #[test]
    fn what_a_guest_says_is_understood_or_refused() {
        let mut port = Port::default();
        send(&mut port, &group(json!({"version": 2, "msg_type": "broadcast", "data": "x".repeat(BROADCAST)})));
        send(&mut port, &group(json!({"version": 2, "msg_type": "status_query", "seq": 7})));
        assert_eq!(port.said(), [Said::Broadcast("x".repeat(BROADCAST)), Said::Query(7)]);
        assert_eq!(heard(&mut port), Vec::<Value>::new());
        let broadcast = |data: Value| json!({"version": 2, "msg_type": "broadcast", "data": data});
        for (message, kind, why) in [
            (group(broadcast(json!("x".repeat(BROADCAST + 1)))), "broadcast", "data is too long, it may have 3050 bytes"),
            (group(broadcast(json!("\u{1}".repeat(660)))), "broadcast", "data is too long, it may have 3050 bytes"),
            (group(broadcast(json!(5))), "broadcast", "failed to parse data"),
            (group(json!({"version": 1, "msg_type": "broadcast", "data": "x"})), "broadcast", "Bad version: 1, expect version: 2"),
            (group(json!({"version": "version", "msg_type": "broadcast", "data": "x"})), "broadcast", "failed to parse version"),
            (json!({"version": 3, "source_addr": GROUP, "dest_addr": GROUP, "data": {}}), "unknown", "Bad version: 3, expect version: 2"),
            (json!({"version": 2, "source_addr": GROUP, "dest_addr": GROUP}), "unknown", "failed to parse data"),
            (group(json!({"version": 2})), "unknown", "failed to parse msg_type"),
            (group(json!({"version": 2, "msg_type": "status_query"})), "status_query", "failed to parse seq"),
            (group(json!({"version": 2, "msg_type": "dance"})), "dance", "unsupported message type: dance"),
        ] {
            send(&mut port, &message);
            let nack = json!({"version": 2, "msg_type": "nack", "orig_msg_type": kind, "log_msg": why});
            assert_eq!(heard(&mut port), [group(nack)], "{message}");
        }
        // Nobody is there, or nothing to be understood.
        port.received(&mut &b"{]\n[1]\n\n"[..], 10);
        send(&mut port, &json!({"version": 2, "source_addr": GROUP, "dest_addr": "cgcs.other", "data": {}}));
        assert_eq!((port.said(), heard(&mut port)), (vec![], vec![]));
    }

    #[test]
    fn a_new_query_ends_the_one_before() {
        let mut port = Port::default();
        let query = |port: &mut Port, seq: u64| send(port, &group(json!({"version": 2, "msg_type": "status_query", "seq": seq})));
        query(&mut port, 1);
        port.tell(Tell::Status { seq: 1, of: json!({"instance_id": "a"}) });
        port.tell(Tell::Broadcast { source: "instance-00000001".into(), text: "hello".into() });
        query(&mut port, 2);
        port.tell(Tell::Status { seq: 1, of: json!({"instance_id": "b"}) });
        port.tell(Tell::StatusDone { seq: 1 });
        port.tell(Tell::Status { seq: 2, of: json!({"instance_id": "a"}) });
        port.tell(Tell::StatusDone { seq: 2 });
        let said: Vec<Value> = heard(&mut port).into_iter().map(|m| m["data"].clone()).collect();
        assert_eq!(
            said,
            [
                json!({"version": 2, "msg_type": "broadcast", "source_instance": "instance-00000001", "data": "hello"}),
                json!({"version": 2, "msg_type": "status_response", "seq": 2, "data": {"instance_id": "a"}}),
                json!({"version": 2, "msg_type": "status_response_done", "seq": 2}),
            ]
        );
    }

    #[test]
    fn a_guest_is_asked_for_vcpus_and_answers() {
        let mut port = Port::default();
        let enveloped = |data: Value| json!({"version": 2, "source_addr": SCALE, "dest_addr": SCALE, "data": data});
        let change = Change::Down { online: [0, 1].into() };
        port.tell(Tell::Scale(change.clone()));
        assert_eq!(heard(&mut port), [enveloped(change.request(scale::TIMEOUT))]);
        let outcome = Outcome::Done { cpu: Some(1), online: [0].into() };
        send(&mut port, &enveloped(change.answer(&outcome)));
        assert_eq!(port.said(), [Said::Scaled { up: false, outcome }]);
        for (data, why) in [
            (json!({"version": 2, "resource": "cpu", "direction": "down"}), "failed to parse result"),
            (json!({"version": 1, "resource": "cpu", "direction": "down"}), "Bad version: 1, expect version: 2"),
            (json!({"version": 2}), "unknown message, resource , direction "),
        ] {
            send(&mut port, &enveloped(data));
            assert_eq!(heard(&mut port), [enveloped(json!({"version": 2, "msg_type": "nack", "log_msg": why}))]);
        }
        assert_eq!(port.said(), []);
    }

    #[test]
    fn one_that_does_not_read_loses_the_oldest() {
        let mut port = Port::default();
        for number in 0..100 {
            port.tell(Tell::Broadcast { source: "i".into(), text: number.to_string() });
        }
        let texts: Vec<String> = heard(&mut port).iter().map(|m| m["data"]["data"].as_str().unwrap().to_string()).collect();
        assert_eq!((texts.len(), texts[0].as_str(), texts[63].as_str(), port.lost()), (QUEUE, "36", "99", 36));
    }

    #[test]
    fn what_is_too_long_for_a_line_goes_without_what_it_can_miss() {
        let mut port = Port::default();
        send(&mut port, &group(json!({"version": 2, "msg_type": "status_query", "seq": 1})));
        let large = json!({"x": "y".repeat(3000)});
        port.tell(Tell::Status { seq: 1, of: json!({"instance_id": "a", "metadata": large, "image_meta": large}) });
        port.tell(Tell::Notification(
            json!({"event_type": "compute.instance.update", "payload": {"metadata": large, "image_meta": large}}),
        ));
        let said = heard(&mut port);
        assert_eq!((&said[0]["data"]["data"]["metadata"], &said[0]["data"]["data"]["image_meta"]), (&large, &json!({})));
        assert_eq!(said[1]["data"]["data"]["payload"]["image_meta"], json!({}));
    }
}
