//! What an alarm is. Words and numbers are those of the StarlingX fault API.

use base::{Error, Result, Timestamp};

use crate::catalogue;

/// Ordered: `Critical` is the greatest. The number is the one stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Of logs that have none: `not-applicable` on the wire.
    None = 0,
    Warning = 1,
    Minor = 2,
    Major = 3,
    Critical = 4,
}

impl Severity {
    pub const ALL: [Severity; 5] = [Severity::None, Severity::Warning, Severity::Minor, Severity::Major, Severity::Critical];

    pub fn word(self) -> &'static str {
        match self {
            Severity::None => "not-applicable",
            Severity::Warning => "warning",
            Severity::Minor => "minor",
            Severity::Major => "major",
            Severity::Critical => "critical",
        }
    }
    pub fn parse(text: &str) -> Option<Severity> {
        Severity::ALL.into_iter().find(|s| s.word() == text)
    }
    pub fn from_number(number: i64) -> Severity {
        Severity::ALL.into_iter().find(|s| *s as i64 == number).unwrap_or(Severity::None)
    }
}

/// X.733's kinds of alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmType {
    Other,
    Communication,
    Qos,
    ProcessingError,
    Equipment,
    Environmental,
    IntegrityViolation,
    OperationalViolation,
    PhysicalViolation,
    SecurityViolation,
    TimeDomainViolation,
    /// Not of X.733: of the Python clients.
    Deployment,
}

impl AlarmType {
    /// In the order of their numbers.
    const WORDS: [(AlarmType, &'static str); 12] = [
        (AlarmType::Other, "other"),
        (AlarmType::Communication, "communication"),
        (AlarmType::Qos, "qos"),
        (AlarmType::ProcessingError, "processing-error"),
        (AlarmType::Equipment, "equipment"),
        (AlarmType::Environmental, "environmental"),
        (AlarmType::IntegrityViolation, "integrity-violation"),
        (AlarmType::OperationalViolation, "operational-violation"),
        (AlarmType::PhysicalViolation, "physical-violation"),
        (AlarmType::SecurityViolation, "security-service-or-mechanism-violation"),
        (AlarmType::TimeDomainViolation, "time-domain-violation"),
        (AlarmType::Deployment, "deployment in progress"),
    ];

    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(kind, _)| *kind == self).map_or("other", |(_, word)| word)
    }
    pub fn parse(text: &str) -> Option<AlarmType> {
        Self::WORDS.iter().find(|(_, word)| *word == text).map(|(kind, _)| *kind)
    }
    pub fn number(self) -> u8 {
        self as u8
    }
    pub fn from_number(number: u64) -> Option<AlarmType> {
        usize::try_from(number).ok().and_then(|n| Self::WORDS.get(n)).map(|(kind, _)| *kind)
    }
}

/// X.733's and X.736's probable causes by number, and three of the Python clients; the wire has the words.
pub const PROBABLE_CAUSES: [&str; 78] = [
    "unknown",
    "adaptor-error",
    "application-subsystem-failure",
    "bandwidth-reduced",
    "call-establishment-error",
    "communication-protocol-error",
    "communication-subsystem-failure",
    "configuration-or-customization-error",
    "congestion",
    "corrupt-data",
    "cpu-cycles-limit-exceeded",
    "dataset-or-modem-error",
    "degraded-signal",
    "dte-dce-interface-error",
    "enclosure-door-open",
    "equipment-malfunction",
    "excessive-vibration",
    "file-error",
    "fire-detected",
    "flood-detected",
    "framing-error",
    "heating-ventilation-cooling-system-problem",
    "humidity-unacceptable",
    "io-device-error",
    "input-device-error",
    "lan-error",
    "leak-detected",
    "local-node-transmission-error",
    "loss-of-frame",
    "loss-of-signal",
    "material-supply-exhausted",
    "multiplexer-problem",
    "out-of-memory",
    "output-device-error",
    "performance-degraded",
    "power-problem",
    "processor-problem",
    "pump-failure",
    "queue-size-exceeded",
    "receive-failure",
    "receiver-failure",
    "remote-node-transmission-error",
    "resource-at-or-nearing-capacity",
    "response-time-excessive",
    "retransmission-rate-excessive",
    "software-error",
    "software-program-abnormally-terminated",
    "software-program-error",
    "storage-capacity-problem",
    "temperature-unacceptable",
    "threshold-crossed",
    "timing-problem",
    "toxic-leak-detected",
    "transmit-failure",
    "transmitter-failure",
    "underlying-resource-unavailable",
    "version-mismatch",
    "duplicate-information",
    "information-missing",
    "information-modification-detected",
    "information-out-of-sequence",
    "unexpected-information",
    "denial-of-service",
    "out-of-service",
    "procedural-error",
    "unspecified-reason",
    "cable-tamper",
    "intrusion-detection",
    "authentication-failure",
    "breach-of-confidentiality",
    "non-repudiation-failure",
    "unauthorized-access-attempt",
    "delayed-information",
    "key-expired",
    "out-of-hours-activity",
    "configuration-out-of-date",
    "configuration-provisioning-required",
    "certificate-expiration",
];

/// The number of a cause's word; unknown words are unspecified.
pub fn cause_number(word: &str) -> u8 {
    cause_known(word).unwrap_or(65)
}

pub(crate) fn cause_known(word: &str) -> Option<u8> {
    PROBABLE_CAUSES.iter().position(|w| *w == word).and_then(|i| u8::try_from(i).ok())
}

/// Longest texts in characters. The C form of the protocol has room for 254 bytes of them.
const TEXT: usize = 8192;

/// An alarm to be set, or a log to be written (severity `None` allowed).
#[derive(Clone, Debug, PartialEq)]
pub struct Alarm {
    /// `GGG.NNN`.
    pub alarm_id: String,
    pub entity_type_id: String,
    /// `key=value` pairs from outermost to innermost, joined by `.`.
    pub entity_instance_id: String,
    pub severity: Severity,
    pub reason_text: String,
    pub alarm_type: AlarmType,
    /// Index into [`PROBABLE_CAUSES`].
    pub probable_cause: u8,
    pub proposed_repair_action: String,
    pub service_affecting: bool,
    /// May be masked by an alarm above it.
    pub suppression: bool,
    /// Masks what lies at and below its entity while set.
    pub inhibit_alarms: bool,
    /// When it happened; now, when absent.
    pub timestamp: Option<Timestamp>,
}

impl Alarm {
    /// An alarm or log of the catalogue on an entity: kind, cause and effects are what the catalogue says.
    pub fn known(alarm_id: &str, entity: String, severity: Severity, reason_text: String, repair: &str) -> Alarm {
        let alarm = Alarm {
            alarm_id: alarm_id.into(),
            entity_type_id: entity_type(&entity),
            entity_instance_id: entity,
            severity,
            reason_text,
            alarm_type: AlarmType::Other,
            probable_cause: 65,
            proposed_repair_action: repair.into(),
            service_affecting: false,
            suppression: false,
            inhibit_alarms: false,
            timestamp: None,
        };
        alarm.catalogued()
    }

    /// An alarm or log on an instance, as the VIM raises them.
    pub fn of_instance(
        alarm_id: &str,
        project_id: &str,
        instance_id: &str,
        severity: Severity,
        reason_text: String,
        repair: &str,
    ) -> Alarm {
        Alarm::known(alarm_id, instance_entity(project_id, instance_id), severity, reason_text, repair)
    }

    /// What the catalogue says of this id, over what the code that raises it says. Where the catalogue leaves a choice, the code's
    /// stands.
    pub(crate) fn catalogued(mut self) -> Alarm {
        let Some(known) = catalogue::known(&self.alarm_id) else { return self };
        if let [kind] = known.types[..] {
            self.alarm_type = kind;
        }
        self.probable_cause = known.probable_cause;
        self.service_affecting = known.service_affecting(self.severity);
        if let Some(suppressible) = known.suppressible {
            self.suppression = suppressible;
        }
        self
    }

    /// The word of the cause; numbers that have none are unspecified.
    pub fn cause(&self) -> &'static str {
        PROBABLE_CAUSES.get(usize::from(self.probable_cause)).copied().unwrap_or("unspecified-reason")
    }

    /// Texts cut to their limits, and the entity's type made from the entity where none is given.
    pub(crate) fn trimmed(mut self) -> Alarm {
        if self.entity_type_id.is_empty() {
            self.entity_type_id = entity_type(&self.entity_instance_id);
        }
        for text in [&mut self.reason_text, &mut self.proposed_repair_action] {
            if text.chars().count() > TEXT {
                *text = text.chars().take(TEXT).collect();
            }
        }
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        alarm_id_check(&self.alarm_id)?;
        if self.entity_instance_id.is_empty() || self.entity_instance_id.len() > 255 {
            return Err(Error::invalid("entity_instance_id must have 1 to 255 characters"));
        }
        if self.entity_type_id.len() > 255 {
            return Err(Error::invalid("entity_type_id must have at most 255 characters"));
        }
        Ok(())
    }
}

pub(crate) fn alarm_id_check(alarm_id: &str) -> Result<()> {
    let id = alarm_id.as_bytes();
    let digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    if id.len() != 7 || id[3] != b'.' || !digits(&id[..3]) || !digits(&id[4..]) {
        return Err(Error::invalid(format!("alarm_id '{alarm_id}' is not of the form GGG.NNN")));
    }
    Ok(())
}

/// Entity of an instance; the project's id in its dashed form, as the catalogue shows it.
pub fn instance_entity(project_id: &str, instance_id: &str) -> String {
    format!("tenant={}.instance={instance_id}", dashed(project_id))
}

/// The keys of an entity, joined by `.`: `host.port` of `host=a.port=eth0`. A value may hold a `.` itself.
pub fn entity_type(entity: &str) -> String {
    let keys: Vec<&str> = entity.split(['.', ',']).filter_map(|part| Some(part.split_once('=')?.0)).collect();
    keys.join(".")
}

fn dashed(id: &str) -> String {
    match (id.len(), id.is_ascii()) {
        (32, true) => format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]),
        _ => id.to_string(),
    }
}

/// Whether `upper` is `lower` or lies above it: compared by whole `key=value` parts, never by text prefix.
pub fn covers(upper: &str, lower: &str) -> bool {
    lower.strip_prefix(upper).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', ',']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_covers_itself_and_what_is_below_but_no_lookalike() {
        assert!(covers("host=compute-1", "host=compute-1"));
        assert!(covers("host=compute-1", "host=compute-1.process=x"));
        assert!(covers("host=compute-1", "host=compute-1,command=y"));
        assert!(!covers("host=compute-1", "host=compute-10"));
        assert!(!covers("host=compute-1.process=x", "host=compute-1"));
    }

    #[test]
    fn project_ids_are_shown_dashed() {
        let entity = instance_entity("0123456789abcdef0123456789abcdef", "u");
        assert_eq!(entity, "tenant=01234567-89ab-cdef-0123-456789abcdef.instance=u");
    }

    #[test]
    fn the_type_of_an_entity_is_its_keys() {
        assert_eq!(entity_type("host=a.port=eth0"), "host.port");
        assert_eq!(entity_type("resource=crd,name=x"), "resource.name");
        assert_eq!(entity_type("host=h.filesystem=/a.b"), "host.filesystem");
        assert_eq!(entity_type("nothing"), "");
    }

    #[test]
    fn what_the_catalogue_says_wins() {
        let log = Alarm::of_instance("700.114", "p", "i", Severity::Critical, "x".into(), "");
        assert_eq!((log.alarm_type, log.cause(), log.service_affecting), (AlarmType::Equipment, "unspecified-reason", false));
        let failed = Alarm::of_instance("700.001", "p", "i", Severity::Critical, "x".into(), "");
        assert_eq!((failed.alarm_type, failed.cause()), (AlarmType::ProcessingError, "software-error"));
        assert!(failed.service_affecting && failed.suppression && failed.entity_type_id == "tenant.instance");
    }

    #[test]
    fn words_and_values_are_one_to_one() {
        assert!(Severity::ALL.into_iter().all(|s| Severity::parse(s.word()) == Some(s) && Severity::from_number(s as i64) == s));
        for (number, (kind, word)) in AlarmType::WORDS.iter().enumerate() {
            assert_eq!((AlarmType::parse(word), AlarmType::from_number(number as u64)), (Some(*kind), Some(*kind)));
            assert_eq!((kind.word(), usize::from(kind.number())), (*word, number));
        }
        for (number, word) in PROBABLE_CAUSES.iter().enumerate() {
            assert_eq!(usize::from(cause_number(word)), number, "{word}");
        }
        assert!(Severity::Critical > Severity::Major);
    }
}
