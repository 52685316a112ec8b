//! The socket for applications inside the guest: each is challenged at its own interval, says how it is, and has a say in what is done with
//! the guest. Messages are all of one size, in the machine's own byte order, as libraries of the original client send them.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use guest::client::{Notice, Settings};
use guest::message::{Action, Event, Notification, VoteResult};

/// Where the original client has it.
pub const SOCKET: &str = "/var/run/.guest_heartbeat_api";
/// Applications at a time.
const MOST: usize = 16;
/// Bytes of a message: its head of twenty, and as much as the longest body.
const SIZE: usize = 228;
const HEAD: usize = 20;
const MAGIC: &[u8; 8] = b"FDFDA5A5";
const VERSION: u8 = 2;
const REVISION: u8 = 1;
const NAME: usize = 40;
const LOG: usize = 192;
const SHORTEST: Duration = Duration::from_millis(400);
/// Challenges in a row that may be missed.
const MISSES: u32 = 1;
/// Bytes that may wait for an application which does not read.
const WAITING: usize = 32 * SIZE;

const INIT: u16 = 0;
const INIT_ACK: u16 = 1;
const FINAL: u16 = 2;
const CHALLENGE: u16 = 3;
const RESPONSE: u16 = 4;
const NOTIFY: u16 = 5;
const ANSWER: u16 = 6;

/// Each in the order of its numbers.
const ACTIONS: [Action; 5] = [Action::Unknown, Action::None, Action::Reboot, Action::Stop, Action::Log];
/// From 1.
const EVENTS: [Event; 12] = [
    Event::Stop,
    Event::Reboot,
    Event::Suspend,
    Event::Pause,
    Event::Unpause,
    Event::Resume,
    Event::ResizeBegin,
    Event::ResizeEnd,
    Event::LiveMigrateBegin,
    Event::LiveMigrateEnd,
    Event::ColdMigrateBegin,
    Event::ColdMigrateEnd,
];
const RESULTS: [VoteResult; 4] = [VoteResult::Unknown, VoteResult::Accept, VoteResult::Reject, VoteResult::Complete];

fn number(event: Event) -> u32 {
    EVENTS.iter().position(|e| *e == event).and_then(|at| u32::try_from(at + 1).ok()).unwrap_or(0)
}

/// The number at this place of a body.
fn word(body: &[u8], place: usize) -> u32 {
    body.get(4 * place..4 * place + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn message(kind: u16, sequence: u32, words: &[u32]) -> [u8; SIZE] {
    let mut bytes = [0u8; SIZE];
    bytes[..8].copy_from_slice(MAGIC);
    (bytes[8], bytes[9]) = (VERSION, REVISION);
    bytes[10..12].copy_from_slice(&kind.to_ne_bytes());
    bytes[12..16].copy_from_slice(&sequence.to_ne_bytes());
    bytes[16..20].copy_from_slice(&u32::try_from(SIZE).unwrap_or_default().to_ne_bytes());
    for (n, word) in words.iter().enumerate() {
        bytes[HEAD + 4 * n..HEAD + 4 * n + 4].copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// What an application has declared.
struct Terms {
    name: String,
    interval: Duration,
    vote: Duration,
    shutdown: Duration,
    suspend: Duration,
    resume: Duration,
    action: Action,
}

struct Application {
    number: u64,
    stream: UnixStream,
    unread: Vec<u8>,
    unwritten: Vec<u8>,
    terms: Option<Terms>,
    open: Option<u32>,
    missed: u32,
    next: Instant,
    unwell: Option<(Action, String)>,
}

/// An application's word on something it was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub application: u64,
    pub invocation_id: u32,
    pub result: VoteResult,
    pub log: String,
}

pub struct Api {
    listener: UnixListener,
    applications: Vec<Application>,
    answers: Vec<Answer>,
    /// Those that ended without a word, by name, with what is to be done about it.
    ended: Vec<(String, Action)>,
    numbers: u64,
    sequence: u32,
    changed: bool,
}

impl Api {
    pub fn open(path: &Path) -> std::io::Result<Api> {
        // What an earlier client has left.
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Api { listener, applications: vec![], answers: vec![], ended: vec![], numbers: 0, sequence: 0, changed: false })
    }

    /// What to wait on.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let applications = self.applications.iter().map(|application| application.stream.as_fd());
        std::iter::once(self.listener.as_fd()).chain(applications).collect()
    }

    /// When there is something to do.
    pub fn due(&self) -> Option<Instant> {
        self.applications.iter().filter(|a| a.terms.is_some()).map(|a| a.next).min()
    }

    /// Takes in what there is, and challenges who is due.
    pub fn serve(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.applications.len() < MOST && stream.set_nonblocking(true).is_ok() {
                self.numbers += 1;
                self.applications.push(Application {
                    number: self.numbers,
                    stream,
                    unread: Vec::new(),
                    unwritten: Vec::new(),
                    terms: None,
                    open: None,
                    missed: 0,
                    next: Instant::now(),
                    unwell: None,
                });
            }
        }
        for mut application in std::mem::take(&mut self.applications) {
            let stays = self.hear(&mut application) && self.challenge(&mut application) && application.flush();
            if stays {
                self.applications.push(application);
            } else if let Some(terms) = application.terms {
                eprintln!("application {} has ended without a word", terms.name);
                self.changed = true;
                self.ended.push((terms.name, terms.action));
            }
        }
    }

    /// False: the application is gone, or speaks something else.
    fn hear(&mut self, application: &mut Application) -> bool {
        let mut buffer = [0u8; 4 * SIZE];
        loop {
            let gone = match application.stream.read(&mut buffer) {
                Ok(0) => true,
                Ok(n) => {
                    application.unread.extend_from_slice(&buffer[..n]);
                    false
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return true,
                Err(_) => true,
            };
            while application.unread.len() >= SIZE {
                let message: Vec<u8> = application.unread.drain(..SIZE).collect();
                if message[..8] != MAGIC[..] || message[8] != VERSION {
                    return false;
                }
                let kind = u16::from_ne_bytes([message[10], message[11]]);
                self.take(application, kind, &message[HEAD..]);
            }
            if gone {
                return false;
            }
        }
    }

    fn take(&mut self, application: &mut Application, kind: u16, body: &[u8]) {
        match kind {
            INIT => {
                let (name, rest) = (text(&body[..NAME]), &body[NAME..]);
                let seconds = |place| Duration::from_secs(u64::from(word(rest, place)));
                let action = ACTIONS.get(word(rest, 5) as usize).copied().unwrap_or(Action::Unknown);
                let interval = Duration::from_millis(u64::from(word(rest, 0)));
                let accepted = interval >= SHORTEST && !name.is_empty();
                if accepted {
                    self.ended.retain(|(ended, _)| *ended != name);
                    let (vote, shutdown, suspend, resume) = (seconds(1), seconds(2), seconds(3), seconds(4));
                    application.terms = Some(Terms { name, interval, vote, shutdown, suspend, resume, action });
                    (application.open, application.missed, application.unwell) = (None, 0, None);
                    application.next = Instant::now();
                    self.changed = true;
                }
                self.say(application, INIT_ACK, &[u32::from(accepted)]);
            }
            FINAL => {
                self.changed |= application.terms.take().is_some();
                application.unwell = None;
            }
            RESPONSE if application.terms.is_some() && application.open == Some(word(body, 0)) => {
                (application.open, application.missed) = (None, 0);
                let action = ACTIONS.get(word(body, 2) as usize).copied().unwrap_or(Action::Unknown);
                application.unwell = (word(body, 1) == 0).then(|| (action, text(&body[12..12 + LOG])));
            }
            ANSWER => self.answers.push(Answer {
                application: application.number,
                invocation_id: word(body, 0),
                result: RESULTS.get(word(body, 3) as usize).copied().unwrap_or(VoteResult::Unknown),
                log: text(&body[16..16 + LOG]),
            }),
            _ => {}
        }
    }

    fn say(&mut self, application: &mut Application, kind: u16, words: &[u32]) {
        self.sequence = self.sequence.wrapping_add(1);
        application.unwritten.extend(message(kind, self.sequence, words));
    }

    /// False: it has not read for long.
    fn challenge(&mut self, application: &mut Application) -> bool {
        let Some(terms) = &application.terms else { return application.unwritten.len() <= WAITING };
        if application.next > Instant::now() {
            return application.unwritten.len() <= WAITING;
        }
        if application.open.is_some() {
            application.missed += 1;
            if application.missed > MISSES {
                application.unwell = Some((terms.action, format!("application {} does not answer", terms.name)));
            }
        }
        application.next = Instant::now() + terms.interval;
        let number = getrandom::u32().unwrap_or(1) >> 1;
        application.open = Some(number);
        self.say(application, CHALLENGE, &[number]);
        application.unwritten.len() <= WAITING
    }

    /// Asks or tells all applications; those that will answer.
    pub fn ask(&mut self, notice: &Notice) -> Vec<u64> {
        let notification = if notice.notification == Notification::Revocable { 1 } else { 2 };
        let words = [u32::try_from(notice.invocation_id).unwrap_or_default(), number(notice.event), notification];
        let mut asked = Vec::new();
        for mut application in std::mem::take(&mut self.applications) {
            if application.terms.is_some() {
                self.say(&mut application, NOTIFY, &words);
                // One that is gone is found out about later.
                application.flush();
                asked.push(application.number);
            }
            self.applications.push(application);
        }
        asked
    }

    pub fn answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// Whether an application is still there to answer.
    pub fn has(&self, number: u64) -> bool {
        self.applications.iter().any(|a| a.number == number && a.terms.is_some())
    }

    /// What is not well about applications: the most severe.
    pub fn unwell(&self) -> Option<(Action, String)> {
        let ended = self.ended.iter().map(|(name, action)| (*action, format!("application {name} has ended")));
        self.applications.iter().filter_map(|a| a.unwell.clone()).chain(ended).max_by_key(|(action, _)| severity(*action))
    }

    /// The guest's own terms, if they are others than before: each application has the time it needs.
    pub fn terms(&mut self, own: &Settings) -> Option<Settings> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut settings = own.clone();
        for terms in self.applications.iter().filter_map(|a| a.terms.as_ref()) {
            settings.vote = settings.vote.max(terms.vote);
            settings.shutdown_notice = settings.shutdown_notice.max(terms.shutdown);
            settings.suspend_notice = settings.suspend_notice.max(terms.suspend);
            settings.resume_notice = settings.resume_notice.max(terms.resume);
        }
        Some(settings)
    }
}

/// How much is done about it.
pub fn severity(action: Action) -> u8 {
    match action {
        Action::Unknown | Action::None => 0,
        Action::Log => 1,
        Action::Stop => 2,
        Action::Reboot => 3,
    }
}

impl Application {
    /// False: it is gone.
    fn flush(&mut self) -> bool {
        while !self.unwritten.is_empty() {
            match self.stream.write(&self.unwritten) {
                Ok(0) => return false,
                Ok(n) => drop(self.unwritten.drain(..n)),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return true,
                Err(_) => return false,
            }
        }
        true
    }
}
