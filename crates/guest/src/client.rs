//! The guest's side.

use std::time::Duration;

use crate::Random;
use crate::lines::Lines;
use crate::message::{Action, Event, Health, Init, Message, Notification, VERSION, VoteResult};

/// The way to the host and back, which is none of the guest's own time.
const MARGIN: Duration = Duration::from_secs(1);
/// A guest that is not well says what is to be done about it once in this time.
const REPEAT: Duration = Duration::from_secs(60);
/// Who looks later than this was held up itself, and knows nothing of the host's silence.
const DELAY: Duration = Duration::from_millis(800);
/// How often [`Client::tick`] is to be called at least.
pub const TICK: Duration = Duration::from_millis(300);
/// The shortest interval there is.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(400);

/// What the guest declares of itself; times without the margin that is added to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub name: String,
    pub interval: Duration,
    pub init_retry: Duration,
    pub challenge_wait: Duration,
    pub vote: Duration,
    pub shutdown_notice: Duration,
    pub suspend_notice: Duration,
    pub resume_notice: Duration,
    pub restart: Duration,
    pub action: Action,
}

impl Default for Settings {
    fn default() -> Self {
        let ten = Duration::from_secs(10);
        Settings {
            name: String::new(),
            interval: Duration::from_secs(1),
            init_retry: Duration::from_secs(5),
            challenge_wait: Duration::from_secs(5),
            vote: ten,
            shutdown_notice: ten,
            suspend_notice: ten,
            resume_notice: ten,
            restart: Duration::from_secs(120),
            action: Action::Reboot,
        }
    }
}

/// Something the guest is asked or told. It is answered by [`Client::answer`] before `until`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub invocation_id: u64,
    pub event: Event,
    pub notification: Notification,
    pub until: Duration,
}

#[derive(Debug, PartialEq)]
enum State {
    /// The port is closed.
    Disabled,
    /// The host is asked to begin.
    Enabling {
        next: Duration,
        id: u64,
        before: Option<u64>,
    },
    Enabled {
        since: Duration,
    },
}

/// A guest's end of the conversation. Times are from any one beginning.
pub struct Client {
    settings: Settings,
    lines: Lines,
    random: Random,
    sequence: u64,
    state: State,
    output: Vec<u8>,
    notices: Vec<Notice>,
    unwell: Option<(Action, String)>,
    said_unwell: Option<Duration>,
    looked: Option<Duration>,
}

impl Client {
    pub fn new(settings: Settings, random: Random) -> Client {
        Client {
            settings,
            lines: Lines::default(),
            random,
            sequence: 0,
            state: State::Disabled,
            output: Vec::new(),
            notices: Vec::new(),
            unwell: None,
            said_unwell: None,
            looked: None,
        }
    }

    pub fn enabled(&self) -> bool {
        matches!(self.state, State::Enabled { .. })
    }

    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// What is to be answered.
    pub fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn say(&mut self, message: &Message) {
        self.sequence += 1;
        self.output.extend(message.line(self.sequence));
    }

    /// The port is open.
    pub fn connected(&mut self, now: Duration) {
        if self.state == State::Disabled {
            self.begin(now, None);
        }
    }

    /// Other terms than before: the host is asked to begin anew with them, which loses nothing.
    pub fn declare(&mut self, settings: Settings, now: Duration) {
        if settings != self.settings {
            self.settings = settings;
            if self.state != State::Disabled {
                self.begin(now, None);
            }
        }
    }

    pub fn disconnected(&mut self) {
        self.state = State::Disabled;
        self.lines = Lines::default();
        self.output.clear();
        self.notices.clear();
    }

    fn begin(&mut self, now: Duration, before: Option<u64>) {
        let id = u64::from((self.random)());
        self.state = State::Enabling { next: now + self.settings.init_retry, id, before };
        let seconds = |time: Duration| (time + MARGIN).as_secs();
        let s = &self.settings;
        let init = Init {
            invocation_id: id,
            name: s.name.clone(),
            interval_ms: u64::try_from(s.interval.max(SHORTEST_INTERVAL).as_millis()).unwrap_or(u64::MAX),
            vote_secs: seconds(s.vote),
            shutdown_notice_secs: seconds(s.shutdown_notice),
            suspend_notice_secs: seconds(s.suspend_notice),
            resume_notice_secs: seconds(s.resume_notice),
            restart_secs: seconds(s.restart),
            action: s.action,
        };
        self.say(&Message::Init(init));
    }

    pub fn received(&mut self, mut bytes: &[u8], now: Duration) {
        while let Some(line) = self.lines.next(&mut bytes) {
            match Message::parse(&line, true) {
                Ok(message) => self.take(message, now),
                Err(crate::message::Refused::Version { version, .. }) if version < VERSION => {}
                Err(refused) => {
                    if let Some(nack) = refused.nack() {
                        self.say(&nack);
                    }
                }
            }
        }
    }

    fn take(&mut self, message: Message, now: Duration) {
        match message {
            Message::InitAck { invocation_id } => {
                if let State::Enabling { id, before, .. } = self.state
                    && (id == invocation_id || before == Some(invocation_id))
                {
                    self.state = State::Enabled { since: now };
                }
            }
            Message::Challenge { number } => {
                let State::Enabled { since } = &mut self.state else { return };
                *since = now;
                let (health, action, log) = match &self.unwell {
                    None => (Health::Healthy, Action::None, String::new()),
                    Some((action, log)) => {
                        let again = self.said_unwell.is_some_and(|at| now.saturating_sub(at) < REPEAT);
                        if !again {
                            self.said_unwell = Some(now);
                        }
                        (Health::Unhealthy, if again { Action::None } else { *action }, log.clone())
                    }
                };
                self.say(&Message::Response { number, health, action, log });
            }
            Message::Notify { invocation_id, event, notification, timeout_ms } if self.enabled() => {
                let mut time = Duration::from_millis(timeout_ms);
                if time > MARGIN {
                    time -= MARGIN;
                }
                self.notices.push(Notice { invocation_id, event, notification, until: now + time });
            }
            _ => {}
        }
    }

    /// Well, or not: what is to be done about it and why.
    pub fn health(&mut self, unwell: Option<(Action, String)>) {
        if unwell.is_none() {
            self.said_unwell = None;
        }
        self.unwell = unwell;
    }

    pub fn answer(&mut self, notice: &Notice, result: VoteResult, log: String) {
        if self.enabled() {
            let Notice { invocation_id, event, notification, .. } = *notice;
            self.say(&Message::Answer { invocation_id, event, notification, result, log });
        }
    }

    /// Takes leave.
    pub fn exit(&mut self, log: String) {
        if self.state != State::Disabled {
            self.say(&Message::Exit { log });
            self.state = State::Disabled;
        }
    }

    /// Called each [`TICK`] or more often.
    pub fn tick(&mut self, now: Duration) {
        let late = self.looked.is_some_and(|at| now.saturating_sub(at) > TICK + DELAY);
        self.looked = Some(now);
        match &mut self.state {
            State::Disabled => {}
            State::Enabling { next, id, .. } if *next <= now => {
                let before = Some(*id);
                self.begin(now, before);
            }
            State::Enabling { .. } => {}
            State::Enabled { since } => {
                if late {
                    *since = now;
                }
                let wait = (self.settings.interval.max(SHORTEST_INTERVAL) * 2).max(self.settings.challenge_wait);
                if now.saturating_sub(*since) > wait {
                    self.begin(now, None);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Host, Report, Verdict};

    const S: Duration = Duration::from_secs(1);

    fn random() -> Random {
        let mut n = 0;
        Box::new(move || {
            n += 1;
            n
        })
    }

    /// A guest and its host, and the port between them.
    struct Pair {
        client: Client,
        host: Host,
        now: Duration,
        cut: bool,
    }

    impl Pair {
        fn new(settings: Settings) -> Pair {
            Pair { client: Client::new(settings, random()), host: Host::new(random()), now: S, cut: false }
        }
        fn carry(&mut self) {
            loop {
                let (up, down) = (self.client.output(), self.host.output());
                if up.is_empty() && down.is_empty() {
                    return;
                }
                if !self.cut {
                    self.host.received(&mut &up[..], 1000, self.now);
                    self.client.received(&down, self.now);
                }
            }
        }
        fn pass(&mut self, time: Duration) {
            let end = self.now + time;
            while self.now < end {
                self.carry();
                self.now += Duration::from_millis(100);
                self.client.tick(self.now);
                self.host.tick(self.now);
            }
            self.carry();
        }
    }

    fn settings() -> Settings {
        Settings { name: "vm".into(), vote: 8 * S, shutdown_notice: 8 * S, ..Settings::default() }
    }

    #[test]
    fn both_sides_find_each_other_and_again() {
        let mut pair = Pair::new(settings());
        pair.cut = true;
        pair.client.connected(pair.now);
        pair.pass(12 * S);
        assert!(!pair.client.enabled());
        pair.cut = false;
        pair.pass(5 * S);
        assert!(pair.client.enabled());
        assert_eq!(pair.host.reports(), [Report::Established]);
        assert_eq!(pair.host.terms().unwrap().vote, 9 * S, "a second for the way");
        pair.pass(120 * S);
        assert_eq!(pair.host.reports(), []);
        // The host process begins anew: it is asked to within its wait and the retry.
        pair.host = Host::new(random());
        pair.pass(10 * S + S);
        assert_eq!((pair.host.reports(), pair.client.enabled()), (vec![Report::Established], true));
        pair.client.exit("over".into());
        pair.pass(S);
        assert_eq!(pair.host.reports(), [Report::Disconnected { log: "over".into() }]);
    }

    #[test]
    fn one_that_was_held_up_itself_does_not_begin_anew() {
        let mut pair = Pair::new(settings());
        pair.client.connected(pair.now);
        pair.pass(3 * S);
        pair.host.reports();
        pair.now += 20 * S;
        pair.client.tick(pair.now);
        assert!(pair.client.enabled());
        pair.cut = true;
        pair.pass(6 * S);
        assert!(!pair.client.enabled());
    }

    #[test]
    fn a_vote_is_answered_and_its_time_is_the_guests_own() {
        let mut pair = Pair::new(settings());
        pair.client.connected(pair.now);
        pair.pass(3 * S);
        pair.host.reports();
        pair.host.ask(4, Event::Stop, Notification::Revocable, pair.now);
        pair.carry();
        let notice = pair.client.notices().remove(0);
        assert_eq!((notice.event, notice.until - pair.now), (Event::Stop, 8 * S));
        pair.client.answer(&notice, VoteResult::Reject, "I am needed".into());
        pair.carry();
        assert_eq!(pair.host.reports(), [Report::Answered { ticket: 4, verdict: Verdict::Rejected("I am needed".into()) }]);
    }

    #[test]
    fn what_is_to_be_done_is_said_once_a_minute() {
        let mut pair = Pair::new(settings());
        pair.client.connected(pair.now);
        pair.pass(3 * S);
        pair.host.reports();
        pair.client.health(Some((Action::Stop, "no disk".into())));
        pair.pass(50 * S);
        assert_eq!(pair.host.reports(), [Report::Unhealthy { action: Action::Stop, log: "no disk".into() }]);
        pair.pass(20 * S);
        assert_eq!(pair.host.reports().len(), 1);
        pair.client.health(None);
        pair.pass(5 * S);
        assert_eq!(pair.host.reports(), []);
    }

    #[test]
    fn messages_of_old_hosts_are_passed_over() {
        let mut client = Client::new(settings(), random());
        client.connected(S);
        client.output();
        let ack = |version: u64| {
            String::from_utf8(Message::InitAck { invocation_id: 1 }.line(1))
                .unwrap()
                .replace("\"version\":3", &format!("\"version\":{version}"))
        };
        client.received(ack(2).as_bytes(), S);
        assert!(!client.enabled() && client.output().is_empty());
        client.received(ack(4).as_bytes(), S);
        assert!(client.enabled());
    }
}
