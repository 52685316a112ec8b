//! The host's side of one guest's conversation.

use std::time::Duration;

use crate::Random;
use crate::lines::Lines;
use crate::message::{Action, Event, Health, Init, LOG, Message, Notification, VoteResult, plain};

/// No guest is challenged more often.
pub const SHORTEST_INTERVAL: Duration = Duration::from_millis(400);
const LONGEST_INTERVAL: Duration = Duration::from_secs(600);
/// Challenges in a row that may be missed.
const MISSES: u32 = 1;
/// A guest's word on how long it needs for something counts up to here: nothing waits for ever.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
const LONGEST_RESTART: Duration = Duration::from_secs(3600);
/// What becomes of the guest after it was told that it will be stopped, paused or moved is no loss for so long.
const QUIET: Duration = Duration::from_secs(60);
/// A guest that is not well is told of once in this time.
const REPEAT: Duration = Duration::from_secs(60);
/// Questions that may be open; more are answered with silence.
const QUESTIONS: usize = 8;

/// What a guest has declared: the times in which it answers, and what is to be done when it falls silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    pub name: String,
    pub interval: Duration,
    pub vote: Duration,
    pub shutdown: Duration,
    pub suspend: Duration,
    pub resume: Duration,
    pub restart: Duration,
    pub action: Action,
}

impl Terms {
    fn of(init: Init) -> Terms {
        let wait = |seconds: u64| Duration::from_secs(seconds).min(LONGEST_WAIT);
        Terms {
            name: init.name,
            interval: Duration::from_millis(init.interval_ms).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL),
            vote: wait(init.vote_secs),
            shutdown: wait(init.shutdown_notice_secs),
            suspend: wait(init.suspend_notice_secs),
            resume: wait(init.resume_notice_secs),
            restart: Duration::from_secs(init.restart_secs).min(LONGEST_RESTART),
            action: init.action,
        }
    }

    /// How long the guest has for its answer.
    pub fn time(&self, event: Event, notification: Notification) -> Duration {
        match (notification, event) {
            (Notification::Revocable, _) => self.vote,
            (_, Event::Stop | Event::Reboot) => self.shutdown,
            (_, event) if event.begins() => self.suspend,
            _ => self.resume,
        }
    }
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    Established,
    /// The guest has taken leave.
    Disconnected {
        log: String,
    },
    /// It has fallen silent.
    Lost {
        action: Action,
    },
    Unhealthy {
        action: Action,
        log: String,
    },
    Answered {
        ticket: u64,
        verdict: Verdict,
    },
}

/// What came of a vote or a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It agrees, or is ready.
    Accepted,
    /// Silence is consent.
    Silent,
    Rejected(String),
}

/// One guest's conversation. Times are from any one beginning.
pub struct Host {
    lines: Lines,
    random: Random,
    sequence: u64,
    output: Vec<u8>,
    reports: Vec<Report>,
    beat: Option<Beat>,
    questions: Vec<Question>,
    /// Whether the guest's processors run.
    running: bool,
    quiet_until: Duration,
    /// When a guest that is not well was last told of.
    told_unwell: Option<Duration>,
}

struct Beat {
    terms: Terms,
    /// The challenge that is not answered yet.
    open: Option<u64>,
    missed: u32,
    /// A miss that was the host's own fault has not been counted.
    forgiven: bool,
    /// When the next one is due.
    next: Duration,
}

struct Question {
    ticket: u64,
    invocation_id: u64,
    event: Event,
    notification: Notification,
    until: Duration,
}

impl Host {
    pub fn new(random: Random) -> Host {
        Host {
            lines: Lines::default(),
            random,
            sequence: 0,
            output: Vec::new(),
            reports: Vec::new(),
            beat: None,
            questions: Vec::new(),
            running: true,
            quiet_until: Duration::ZERO,
            told_unwell: None,
        }
    }

    /// The terms of a guest that beats.
    pub fn terms(&self) -> Option<&Terms> {
        self.beat.as_ref().map(|beat| &beat.terms)
    }

    /// What is to be sent.
    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    pub fn reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    /// When [`Host::tick`] has something to do.
    pub fn due(&self) -> Option<Duration> {
        let beat = self.beat.as_ref().filter(|_| self.running).map(|beat| beat.next);
        self.questions.iter().map(|q| q.until).chain(beat).min()
    }

    fn say(&mut self, message: &Message) {
        self.sequence += 1;
        self.output.extend(message.line(self.sequence));
    }

    fn challenge(&mut self, now: Duration) {
        let number = u64::from((self.random)());
        let Some(beat) = &mut self.beat else { return };
        (beat.open, beat.next) = (Some(number), now + beat.terms.interval);
        self.say(&Message::Challenge { number });
    }

    /// The guest's processors stand still, or run again: one that stands still misses nothing.
    pub fn running(&mut self, running: bool, now: Duration) {
        if std::mem::replace(&mut self.running, running) != running && running {
            if let Some(beat) = &mut self.beat {
                beat.missed = 0;
            }
            self.challenge(now);
        }
    }

    /// Takes what the guest has sent: at most `most` messages of it. What is left of the bytes is for the next time.
    pub fn received(&mut self, bytes: &mut &[u8], most: usize, now: Duration) {
        for _ in 0..most {
            let Some(line) = self.lines.next(bytes) else { return };
            match Message::parse(&line, false) {
                Ok(message) => self.take(message, now),
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
            Message::Init(init) => {
                let invocation_id = init.invocation_id;
                // A client that was killed and began anew was not lost.
                let anew = self.beat.is_none();
                self.beat = Some(Beat { terms: Terms::of(init), open: None, missed: 0, forgiven: false, next: now });
                self.quiet_until = Duration::ZERO;
                self.told_unwell = None;
                self.say(&Message::InitAck { invocation_id });
                self.challenge(now);
                if anew {
                    self.reports.push(Report::Established);
                }
            }
            Message::Response { number, health, action, log } => {
                let Some(beat) = self.beat.as_mut().filter(|beat| beat.open == Some(number)) else { return };
                (beat.open, beat.missed, beat.forgiven) = (None, 0, false);
                if health == Health::Healthy {
                    self.told_unwell = None;
                    return;
                }
                let again = self.told_unwell.is_some_and(|at| now.saturating_sub(at) < REPEAT);
                if matches!(action, Action::Reboot | Action::Stop | Action::Log) && !again {
                    self.told_unwell = Some(now);
                    self.reports.push(Report::Unhealthy { action, log });
                }
            }
            Message::Answer { invocation_id, event, notification, result, log } => {
                let asked = |q: &Question| q.invocation_id == invocation_id && q.event == event && q.notification == notification;
                let Some(place) = self.questions.iter().position(asked) else { return };
                let verdict = match result {
                    VoteResult::Accept | VoteResult::Complete => Verdict::Accepted,
                    // A notice cannot be refused.
                    VoteResult::Reject if notification == Notification::Irrevocable => Verdict::Accepted,
                    VoteResult::Reject => Verdict::Rejected(log),
                    // As good as silence, and then the time is waited for.
                    VoteResult::Timeout | VoteResult::Error | VoteResult::Unknown => return,
                };
                let question = self.questions.remove(place);
                self.reports.push(Report::Answered { ticket: question.ticket, verdict });
            }
            Message::Exit { log } => {
                if self.beat.take().is_some() {
                    self.reports.push(Report::Disconnected { log: plain(&log, LOG) });
                }
                self.silence(|_| true);
            }
            // Only hosts send the others; and a nack changes nothing.
            Message::Nack { .. } | Message::InitAck { .. } | Message::Challenge { .. } | Message::Notify { .. } => {}
        }
    }

    /// Asks or tells the guest, and answers how long it has; nothing: it does not beat, and there is no answer to wait for. Else
    /// [`Report::Answered`] comes, at the latest when that time is over.
    pub fn ask(&mut self, ticket: u64, event: Event, notification: Notification, now: Duration) -> Option<Duration> {
        let time = self.terms().filter(|_| self.running).map(|terms| terms.time(event, notification))?;
        if self.questions.len() >= QUESTIONS {
            return None;
        }
        let invocation_id = u64::from((self.random)());
        let timeout_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.say(&Message::Notify { invocation_id, event, notification, timeout_ms });
        self.questions.push(Question { ticket, invocation_id, event, notification, until: now + time });
        if notification == Notification::Irrevocable && event.begins() {
            self.leaving(now + time);
        }
        Some(time)
    }

    fn silence(&mut self, over: impl Fn(&Question) -> bool) {
        for question in self.questions.extract_if(.., |q| over(q)) {
            self.reports.push(Report::Answered { ticket: question.ticket, verdict: Verdict::Silent });
        }
    }

    /// What the guest was told will be done to it may begin now.
    fn leaving(&mut self, now: Duration) {
        self.quiet_until = now + QUIET;
    }

    /// Does what is due. What the guest has sent is to be taken in before.
    pub fn tick(&mut self, now: Duration) {
        self.silence(|q| q.until <= now);
        let quiet = now < self.quiet_until;
        let Some(beat) = self.beat.as_mut().filter(|beat| self.running && beat.next <= now) else { return };
        let late = now - beat.next;
        if beat.open.is_some() && late > beat.terms.interval / 2 && !beat.forgiven {
            // The host itself was held up, and the guest perhaps with it.
            beat.forgiven = true;
        } else if beat.open.is_some() {
            beat.missed += 1;
        }
        if beat.missed <= MISSES {
            self.challenge(now);
            return;
        }
        let action = beat.terms.action;
        self.beat = None;
        self.silence(|_| true);
        self.reports.push(if quiet { Report::Disconnected { log: String::new() } } else { Report::Lost { action } });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const S: Duration = Duration::from_secs(1);
    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    struct Talk {
        host: Host,
        now: Duration,
    }

    impl Talk {
        fn new() -> Talk {
            let mut n = 1000;
            let random = Box::new(move || {
                n += 1;
                n
            });
            Talk { host: Host::new(random), now: S }
        }
        fn begun(interval: u64, times: [u64; 4]) -> Talk {
            let mut talk = Talk::new();
            talk.init(interval, times);
            assert_eq!(talk.host.reports(), [Report::Established]);
            talk.heard();
            talk
        }
        fn send(&mut self, value: Value) {
            let line = format!("\n{value}\n");
            self.host.received(&mut line.as_bytes(), 100, self.now);
        }
        fn message(&mut self, message: &Message) {
            self.host.received(&mut &message.line(1)[..], 100, self.now);
        }
        fn init(&mut self, interval_ms: u64, [vote, shutdown, suspend, resume]: [u64; 4]) {
            self.message(&Message::Init(Init {
                invocation_id: 7,
                name: "vm".into(),
                interval_ms,
                vote_secs: vote,
                shutdown_notice_secs: shutdown,
                suspend_notice_secs: suspend,
                resume_notice_secs: resume,
                restart_secs: 120,
                action: Action::Reboot,
            }));
        }
        fn heard(&mut self) -> Vec<Value> {
            let bytes = self.host.output();
            let lines = bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty());
            lines.map(|l| serde_json::from_slice(l).unwrap()).collect()
        }
        /// Lets time pass, and gives what was said and when.
        fn pass(&mut self, time: Duration) -> Vec<(u64, Value)> {
            let (end, mut said) = (self.now + time, Vec::new());
            while let Some(due) = self.host.due().filter(|due| *due <= end) {
                self.now = due;
                self.host.tick(due);
                let at = due.as_millis() as u64;
                said.extend(self.heard().into_iter().map(|v| (at, v)));
            }
            self.now = end;
            said
        }
        /// The same with a guest that answers.
        fn live(&mut self, time: Duration) -> usize {
            let (end, mut beats) = (self.now + time, 0);
            loop {
                for said in self.heard().into_iter().filter(|s| s["msg_type"] == "challenge") {
                    beats += 1;
                    let number = said["heartbeat_challenge"].as_u64().unwrap();
                    self.respond(number, Health::Healthy, Action::None);
                }
                let Some(due) = self.host.due().filter(|due| *due <= end) else { break };
                self.now = due;
                self.host.tick(due);
            }
            self.now = end;
            beats
        }
        fn respond(&mut self, number: u64, health: Health, action: Action) {
            self.message(&Message::Response { number, health, action, log: "why".into() });
        }
        fn open(&mut self) -> u64 {
            self.host.beat.as_ref().unwrap().open.unwrap()
        }
    }

    #[test]
    fn a_guest_that_begins_is_acknowledged_and_challenged_at_once() {
        let mut talk = Talk::new();
        talk.init(1000, [9; 4]);
        let said = talk.heard();
        assert_eq!(said[0]["msg_type"], "init_ack");
        assert_eq!((&said[0]["invocation_id"], &said[0]["sequence"], &said[1]["sequence"]), (&json!(7), &json!(1), &json!(2)));
        assert_eq!((said.len(), &said[1]["msg_type"]), (2, &json!("challenge")));
        assert_eq!(talk.host.reports(), [Report::Established]);
        assert_eq!(talk.host.terms().unwrap().vote, 9 * S);
        // Killed and begun anew: no loss, no second beginning.
        talk.live(5 * S);
        talk.init(2000, [5; 4]);
        assert_eq!((talk.heard().len(), talk.host.reports(), talk.host.terms().unwrap().vote), (2, vec![], 5 * S));
    }

    #[test]
    fn none_is_challenged_too_often_and_what_is_missing_is_named() {
        let mut talk = Talk::begun(100, [1; 4]);
        assert_eq!(talk.host.terms().unwrap().interval, ms(400));
        assert_eq!(talk.live(4 * S), 10);
        talk.send(json!({"version": 3, "revision": 1, "msg_type": "init", "sequence": 1, "invocation_id": 9, "name": "vm"}));
        let said = talk.heard();
        let said = said.last().unwrap();
        assert_eq!((&said["msg_type"], &said["log_msg"]), (&json!("nack"), &json!("failed to parse heartbeat_interval_ms")));
        talk.send(json!({"version": 2, "revision": 1, "msg_type": "init", "sequence": 1, "invocation_id": 9, "name": "vm"}));
        assert_eq!(talk.heard()[0]["log_msg"], "Bad version: 2, expect version: 3");
    }

    #[test]
    fn two_missed_in_a_row_are_a_loss_and_leave_is_none() {
        let mut talk = Talk::begun(1000, [9; 4]);
        talk.live(3 * S + ms(500));
        let silent = talk.now;
        // One missed is nothing.
        talk.pass(S);
        talk.live(S);
        assert_eq!(talk.host.reports(), []);
        talk.pass(10 * S);
        assert_eq!(talk.host.reports(), [Report::Lost { action: Action::Reboot }]);
        assert!(talk.host.terms().is_none() && talk.host.due().is_none(), "{silent:?}");

        let mut talk = Talk::begun(1000, [9; 4]);
        talk.live(3 * S);
        // A wrong echo counts for nothing.
        let started = talk.now;
        while talk.host.terms().is_some() {
            let wrong = talk.host.beat.as_ref().unwrap().open.map_or(1, |n| n + 1);
            talk.respond(wrong, Health::Healthy, Action::None);
            talk.pass(ms(100));
        }
        assert!((2 * S..=3 * S).contains(&(talk.now - started)), "{:?}", talk.now - started);
        assert_eq!(talk.host.reports().len(), 1);

        let mut talk = Talk::begun(1000, [9; 4]);
        talk.live(3 * S);
        talk.message(&Message::Exit { log: "going".into() });
        talk.pass(10 * S);
        assert_eq!(talk.host.reports(), [Report::Disconnected { log: "going".into() }]);
    }

    #[test]
    fn a_host_that_was_held_up_and_a_guest_that_stands_still_lose_nothing() {
        let mut talk = Talk::begun(400, [9; 4]);
        talk.live(4 * S);
        for _ in 0..5 {
            // The answer came in time, and so did ours not.
            let due = talk.host.due().unwrap();
            talk.now = due + ms(300);
            talk.host.tick(talk.now);
            talk.live(2 * S);
        }
        let due = talk.host.due().unwrap();
        talk.host.tick(due);
        // Nobody has answered, because nobody ran.
        talk.now = due + ms(1500);
        talk.host.tick(talk.now);
        talk.live(2 * S);
        assert_eq!(talk.host.reports(), []);
        talk.host.running(false, talk.now);
        assert_eq!(talk.host.due(), None);
        talk.now += 3600 * S;
        talk.host.running(true, talk.now);
        talk.live(2 * S);
        assert!(talk.host.terms().is_some() && talk.host.reports().is_empty());
        talk.pass(3 * S);
        assert_eq!(talk.host.reports().len(), 1, "but not for ever");
    }

    #[test]
    fn one_that_is_not_well_is_told_of_once_a_minute() {
        let mut talk = Talk::begun(1000, [9; 4]);
        let mut told = 0;
        for _ in 0..59 {
            let open = talk.open();
            talk.respond(open, Health::Unhealthy, Action::Stop);
            told += talk.host.reports().len();
            talk.pass(S);
        }
        assert_eq!(told, 1);
        for (action, some) in [(Action::None, false), (Action::Unknown, false), (Action::Log, true)] {
            talk.pass(S);
            let open = talk.open();
            talk.respond(open, Health::Unhealthy, action);
            let reports = talk.host.reports();
            assert_eq!(reports, if some { vec![Report::Unhealthy { action, log: "why".into() }] } else { vec![] });
        }
    }

    #[test]
    fn votes_and_notices_have_each_their_own_time() {
        let times = [9, 10, 11, 12];
        let pause = [Event::Pause, Event::Suspend, Event::ResizeBegin, Event::LiveMigrateBegin, Event::ColdMigrateBegin];
        let resume = [Event::Unpause, Event::Resume, Event::ResizeEnd, Event::LiveMigrateEnd, Event::ColdMigrateEnd];
        let mut talk = Talk::begun(1000, times);
        for (event, _) in Event::WORDS {
            let notice = match event {
                e if pause.contains(&e) => 11,
                e if resume.contains(&e) => 12,
                _ => 10,
            };
            for (notification, time) in [(Notification::Revocable, 9), (Notification::Irrevocable, notice)] {
                assert_eq!(talk.host.ask(5, event, notification, talk.now), Some(time * S));
                let said = talk.heard().pop().unwrap();
                assert_eq!(said["timeout_ms"], json!(u64::from(time) * 1000));
                assert_eq!((&said["event_type"], &said["notification_type"]), (&json!(event.word()), &json!(notification.word())));
                let id = said["invocation_id"].as_u64().unwrap();
                let answer = |result, notification| Message::Answer { invocation_id: id, event, notification, result, log: "Busy".into() };
                // No answer to this question, and none at all.
                talk.message(&answer(VoteResult::Reject, if time == 9 { Notification::Irrevocable } else { Notification::Revocable }));
                talk.message(&answer(VoteResult::Timeout, notification));
                assert_eq!(talk.host.reports(), []);
                talk.message(&answer(VoteResult::Reject, notification));
                let verdict = if time == 9 { Verdict::Rejected("Busy".into()) } else { Verdict::Accepted };
                assert_eq!(talk.host.reports(), [Report::Answered { ticket: 5, verdict }]);
                talk.message(&answer(VoteResult::Accept, notification));
                assert_eq!(talk.host.reports(), [], "it has spoken");
                talk.live(S);
            }
        }
    }

    #[test]
    fn silence_is_consent_when_its_own_time_is_over() {
        let mut talk = Talk::begun(60_000, [5, 30, 8, 8]);
        for (notification, time) in [(Notification::Revocable, 5), (Notification::Irrevocable, 30)] {
            let asked = talk.now;
            talk.host.ask(1, Event::Stop, notification, talk.now);
            talk.pass(time * S - ms(1));
            assert_eq!(talk.host.reports(), []);
            talk.pass(ms(1));
            assert_eq!(talk.host.reports(), [Report::Answered { ticket: 1, verdict: Verdict::Silent }], "{asked:?}");
        }
        // Who is not there is not waited for, and who leaves no longer.
        let mut talk = Talk::new();
        assert_eq!(talk.host.ask(1, Event::Stop, Notification::Revocable, talk.now), None);
        let mut talk = Talk::begun(1000, [3600; 4]);
        assert_eq!(talk.host.ask(1, Event::Stop, Notification::Revocable, talk.now), Some(600 * S));
        talk.message(&Message::Exit { log: String::new() });
        assert!(talk.host.reports().contains(&Report::Answered { ticket: 1, verdict: Verdict::Silent }));
        // Questions have an end.
        let mut talk = Talk::begun(1000, [9; 4]);
        let asked = (0..20).filter(|n| talk.host.ask(*n, Event::Stop, Notification::Revocable, talk.now).is_some()).count();
        assert_eq!(asked, QUESTIONS);
    }

    #[test]
    fn one_that_was_told_is_not_lost() {
        let mut talk = Talk::begun(1000, [9; 4]);
        talk.live(3 * S);
        talk.host.leaving(talk.now);
        talk.pass(10 * S);
        assert_eq!(talk.host.reports(), [Report::Disconnected { log: String::new() }]);
        // It stayed after all.
        let mut talk = Talk::begun(1000, [9; 4]);
        talk.host.leaving(talk.now);
        talk.live(61 * S);
        talk.pass(10 * S);
        assert_eq!(talk.host.reports(), [Report::Lost { action: Action::Reboot }]);
    }

    #[test]
    fn rubbish_between_messages_harms_none() {
        let mut talk = Talk::begun(1000, [9; 4]);
        let open = talk.open();
        let good = Message::Response { number: open, health: Health::Healthy, action: Action::None, log: String::new() }.line(4);
        let mut bytes = vec![0xff; 2048];
        bytes.extend(b"\n{\"version\": 3, \"rev");
        bytes.extend(&good);
        bytes.extend(vec![b'{'; 900]);
        for piece in bytes.chunks(13) {
            talk.host.received(&mut &piece[..], 100, talk.now);
        }
        assert_eq!(talk.host.beat.as_ref().unwrap().open, None);
        assert_eq!(talk.heard(), [json!(null); 0]);
        // At most so many at a time.
        let many = Message::Exit { log: String::new() }.line(1).repeat(8);
        let mut rest = &many[..];
        talk.host.received(&mut rest, 5, talk.now);
        assert!(!rest.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_guest_breaks_its_host(pieces in proptest::collection::vec((0usize..9, proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60), 0u64..3000), 0..40)) {
            let mut talk = Talk::new();
            for (pick, noise, time) in pieces {
                match pick {
                    0 => talk.init(time, [time; 4]),
                    1 => talk.message(&Message::Exit { log: String::from_utf8_lossy(&noise).into_owned() }),
                    2 => drop(talk.host.ask(time, Event::Stop, Notification::Revocable, talk.now)),
                    3 => talk.host.leaving(talk.now),
                    4 => talk.host.running(time % 2 == 0, talk.now),
                    _ => talk.host.received(&mut &noise[..], 5, talk.now),
                }
                talk.pass(ms(time));
                proptest::prop_assert!(talk.host.questions.len() <= QUESTIONS);
                talk.host.reports();
            }
        }
    }
}
