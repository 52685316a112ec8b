//! Events that must reach the controller: numbered, on disk before they are sent, kept until stored there.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Mutex;

use base::error::Internal;
use base::{Result, Timestamp};
use rpc::message::{HostEvent, HostEventKind};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// The journal is rewritten when it is longer than this and most of it is done with.
const LONG: u64 = 256 << 10;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Event {
        number: u64,
        event: HostEvent,
    },
    /// Everything up to this is stored at the controller; numbers go on after it.
    Stored {
        up_to: u64,
    },
}

struct State {
    file: File,
    next: u64,
    stored: u64,
    kept: BTreeMap<u64, HostEvent>,
}

pub struct Events {
    path: PathBuf,
    sync: bool,
    state: Mutex<State>,
    newest: watch::Sender<u64>,
}

impl Events {
    pub fn open(path: PathBuf, sync: bool) -> Result<Events> {
        let (mut stored, mut newest, mut kept) = (0, 0, BTreeMap::new());
        match File::open(&path) {
            Ok(file) => {
                for line in BufReader::new(file).lines() {
                    // A line cut off by a crash was never sent: the work it tells of is looked at again.
                    let Ok(line) =
                        line.internal("cannot read the event journal").and_then(|l| serde_json::from_str(&l).internal("bad line"))
                    else {
                        continue;
                    };
                    match line {
                        Line::Event { number, event } => {
                            newest = newest.max(number);
                            kept.insert(number, event);
                        }
                        Line::Stored { up_to } => stored = stored.max(up_to),
                    }
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).internal("cannot open the event journal"),
        }
        kept.retain(|number, _| *number > stored);
        let next = newest.max(stored) + 1;
        // A disk that is full has no room for it, and perhaps for the next line.
        let file = rewrite(&path, stored, &kept, sync).or_else(|error| OpenOptions::new().append(true).open(&path).map_err(|_| error))?;
        let (sender, _) = watch::channel(next - 1);
        Ok(Events { path, sync, state: Mutex::new(State { file, next, stored, kept }), newest: sender })
    }

    /// On disk when it returns. `at` is when it was seen.
    pub fn record(&self, at: Timestamp, kind: HostEventKind) -> Result<u64> {
        let event = HostEvent { at, kind };
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let number = state.next;
        append(&mut state.file, &Line::Event { number, event: event.clone() }, self.sync)?;
        state.next += 1;
        state.kept.insert(number, event);
        drop(state);
        self.newest.send_replace(number);
        Ok(number)
    }

    /// The controller has everything up to here.
    pub fn stored(&self, up_to: u64) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let up_to = up_to.min(state.next - 1);
        if up_to <= state.stored {
            return Ok(());
        }
        state.stored = up_to;
        state.kept.retain(|number, _| *number > up_to);
        // Not synced: losing this line sends an event twice, and it has its number.
        append(&mut state.file, &Line::Stored { up_to }, false)?;
        if state.file.metadata().map(|m| m.len()).unwrap_or_default() > LONG && state.kept.len() < 100 {
            state.file = rewrite(&self.path, up_to, &state.kept, self.sync)?;
        }
        Ok(())
    }

    /// Events after `number`, in order.
    pub fn after(&self, number: u64) -> Vec<(u64, HostEvent)> {
        let state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.kept.range(number + 1..).map(|(n, e)| (*n, e.clone())).collect()
    }

    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

fn append(file: &mut File, line: &Line, sync: bool) -> Result<()> {
    let mut text = serde_json::to_vec(line).internal("cannot write an event")?;
    text.push(b'\n');
    file.write_all(&text).internal("cannot write the event journal")?;
    if sync { file.sync_data().internal("cannot sync the event journal") } else { Ok(()) }
}

fn rewrite(path: &std::path::Path, stored: u64, kept: &BTreeMap<u64, HostEvent>, sync: bool) -> Result<File> {
    let mut text = serde_json::to_vec(&Line::Stored { up_to: stored }).internal("cannot write an event")?;
    text.push(b'\n');
    for (number, event) in kept {
        text.extend(serde_json::to_vec(&Line::Event { number: *number, event: event.clone() }).internal("cannot write an event")?);
        text.push(b'\n');
    }
    crate::documents::replace(path, &text, sync)?;
    OpenOptions::new().append(true).mode(0o600).open(path).internal("cannot open the event journal")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(n: i32) -> HostEventKind {
        HostEventKind::InstanceShutDown { instance_id: n.to_string() }
    }

    #[test]
    fn numbers_go_on_and_unstored_events_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let events = Events::open(path.clone(), true).unwrap();
        assert_eq!(
            (
                events.record(Timestamp(0), kind(1)).unwrap(),
                events.record(Timestamp(0), kind(2)).unwrap(),
                events.record(Timestamp(0), kind(3)).unwrap()
            ),
            (1, 2, 3)
        );
        events.stored(2).unwrap();
        drop(events);
        // A crash in the middle of a line.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"event\":{\"num").unwrap();
        let events = Events::open(path.clone(), true).unwrap();
        assert_eq!(events.after(0).iter().map(|(n, _)| *n).collect::<Vec<_>>(), [3]);
        assert_eq!(events.record(Timestamp(0), kind(4)).unwrap(), 4);
        events.stored(4).unwrap();
        let events = Events::open(path, true).unwrap();
        assert!(events.after(0).is_empty());
        assert_eq!(events.record(Timestamp(0), kind(5)).unwrap(), 5);
    }
}
