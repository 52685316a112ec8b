//! Words of vCPU scaling, over the port for messages as `cgcs.scale`: what a guest is asked, and what it answers.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::messaging::VERSION;

/// The address of scaling, on both sides.
pub const SCALE: &str = "cgcs.scale";
/// How long a guest may take, from the question to its answer.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// One vCPU less, of the guest's choice, or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Down {
        /// Those that the host believes to be online now: a guest that is asked again may have done it already.
        online: BTreeSet<u32>,
    },
    Up {
        cpu: u32,
        /// Those that are to be online then.
        online: BTreeSet<u32>,
    },
}

/// What has become of it in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done {
        /// Which one; none: it does not say.
        cpu: Option<u32>,
        /// Those that are online now, as far as it says so.
        online: BTreeSet<u32>,
    },
    Failed(String),
}

impl Change {
    fn direction(&self) -> &'static str {
        match self {
            Change::Down { .. } => "down",
            Change::Up { .. } => "up",
        }
    }

    /// The question, for the envelope.
    pub fn request(&self, timeout: Duration) -> Value {
        let timeout = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let mut request = json!({
            "version": VERSION, "msg_type": "scale_request", "timeout_ms": timeout, "resource": "cpu", "direction": self.direction(),
        });
        match self {
            Change::Down { online } => request["online_cpus"] = json!(online),
            Change::Up { cpu, online } => (request["online_cpu"], request["online_cpus"]) = (json!(cpu), json!(online)),
        }
        request
    }

    /// The question as a guest reads it, with the time it has. None: of another version, or of no use; nobody answers that.
    pub fn asked(data: &Value) -> Option<(Change, Duration)> {
        if data["version"].as_u64() != Some(VERSION) || data["msg_type"] != "scale_request" || data["resource"] != "cpu" {
            return None;
        }
        let timeout = data["timeout_ms"].as_u64().map_or(TIMEOUT, Duration::from_millis);
        let online = cpus(&data["online_cpus"]);
        let change = match data["direction"].as_str()? {
            "down" => Change::Down { online },
            "up" => Change::Up { cpu: cpu(&data["online_cpu"])?, online },
            _ => return None,
        };
        Some((change, timeout))
    }

    /// A guest's answer, for the envelope.
    pub fn answer(&self, outcome: &Outcome) -> Value {
        let mut answer = json!({"version": VERSION, "resource": "cpu", "direction": self.direction()});
        match outcome {
            Outcome::Done { cpu, online } => {
                answer["result"] = "success".into();
                let key = if matches!(self, Change::Down { .. }) { "offline_cpu" } else { "online_cpu" };
                if let Some(cpu) = cpu {
                    answer[key] = json!(cpu);
                }
                answer["online_cpus"] = json!(online);
            }
            Outcome::Failed(why) => (answer["result"], answer["err_msg"]) = ("fail".into(), json!(why)),
        }
        answer
    }

    /// Whether an answer is one to this.
    pub fn is_answered_by(&self, up: bool, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Change::Up { cpu, .. }, Outcome::Done { cpu: Some(done), .. }) => up && cpu == done,
            (Change::Up { .. }, _) => up,
            (Change::Down { .. }, _) => !up,
        }
    }
}

fn cpu(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|cpu| u32::try_from(cpu).ok())
}

fn cpus(value: &Value) -> BTreeSet<u32> {
    value.as_array().into_iter().flatten().filter_map(cpu).collect()
}

/// A guest's answer as its host reads it, and whether it is one to going up; else what is wrong with it.
pub fn answered(data: &Map<String, Value>) -> Result<(bool, Outcome), String> {
    let word = |key: &str| data.get(key).and_then(Value::as_str).unwrap_or_default().chars().take(64).collect::<String>();
    let (resource, direction) = (word("resource"), word("direction"));
    if resource != "cpu" || !matches!(direction.as_str(), "up" | "down") {
        return Err(format!("unknown message, resource {resource}, direction {direction}"));
    }
    let up = direction == "up";
    let value = |key: &str| data.get(key).unwrap_or(&Value::Null);
    match word("result").as_str() {
        "success" => {
            let key = if up { "online_cpu" } else { "offline_cpu" };
            Ok((up, Outcome::Done { cpu: cpu(value(key)), online: cpus(value("online_cpus")) }))
        }
        "fail" => Ok((up, Outcome::Failed(word("err_msg")))),
        _ => Err("failed to parse result".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn questions_are_read_as_they_were_written() {
        let (up, down) = (Change::Up { cpu: 2, online: [0, 2].into() }, Change::Down { online: [0, 1, 2].into() });
        let wire = json!({
            "version": 2, "msg_type": "scale_request", "timeout_ms": 10_000, "resource": "cpu", "direction": "up",
            "online_cpu": 2, "online_cpus": [0, 2],
        });
        assert_eq!(up.request(TIMEOUT), wire);
        for change in [up, down] {
            assert_eq!(Change::asked(&change.request(Duration::from_millis(7))), Some((change, Duration::from_millis(7))));
        }
        // Of the original, without what it does not know.
        let bare = json!({"version": 2, "msg_type": "scale_request", "timeout_ms": 1, "resource": "cpu", "direction": "down"});
        assert_eq!(Change::asked(&bare).unwrap().0, Change::Down { online: [].into() });
        for (key, value) in
            [("version", json!(1)), ("msg_type", json!("nack")), ("resource", json!("memory")), ("direction", json!("left"))]
        {
            let mut other = bare.clone();
            other[key] = value;
            assert_eq!(Change::asked(&other), None, "{key}");
        }
    }

    #[test]
    fn answers_are_read_as_they_were_written() {
        let (up, down) = (Change::Up { cpu: 2, online: [0, 2].into() }, Change::Down { online: [0, 1, 2].into() });
        let done = |cpu| Outcome::Done { cpu, online: [0, 1].into() };
        let wire =
            json!({"version": 2, "resource": "cpu", "direction": "down", "result": "success", "offline_cpu": 2, "online_cpus": [0, 1]});
        assert_eq!(down.answer(&done(Some(2))), wire);
        for (change, outcome) in [(&up, done(Some(2))), (&down, done(None)), (&down, Outcome::Failed("busy".into()))] {
            let (is_up, read) = answered(&object(change.answer(&outcome))).unwrap();
            assert_eq!(read, outcome);
            assert!(change.is_answered_by(is_up, &read));
        }
        assert!(!up.is_answered_by(true, &done(Some(1))), "late, to another question");
        assert!(!up.is_answered_by(false, &Outcome::Failed("busy".into())));
        let bad = |value: Value| answered(&object(value)).unwrap_err();
        assert_eq!(bad(json!({"resource": "cpu", "direction": "up"})), "failed to parse result");
        assert_eq!(bad(json!({"resource": "ram", "direction": "up"})), "unknown message, resource ram, direction up");
    }
}
