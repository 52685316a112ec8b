//! The rules for passwords and accounts: keystone's `[security_compliance]`, by its names.

use std::time::Duration;

use base::{Config, Error, Result, Timestamp};
use regex_lite::Regex;
use serde_json::Value;

use crate::users::User;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Numbers of 0: there is no such rule.
#[derive(Debug)]
pub struct PasswordRules {
    lockout_failure_attempts: u64,
    /// 0: until an administrator enables the account again.
    lockout_duration: Duration,
    days_inactive: u32,
    expires_days: u32,
    pub unique_last_password_count: usize,
    minimum_age_days: u32,
    pattern: Option<Pattern>,
    description: String,
    change_upon_first_use: bool,
}

impl PasswordRules {
    /// An expression that cannot be read is told here.
    pub fn read(config: &Config) -> Result<PasswordRules> {
        let key = |name: &str| format!("security_compliance.{name}");
        let days = |name: &str| u32::try_from(config.int(&key(name))).unwrap_or(u32::MAX);
        let pattern = match config.text("security_compliance.password_regex") {
            "" => None,
            text => Some(Pattern::read(text).map_err(|why| Error::invalid(format!("security_compliance.password_regex: {why}")))?),
        };
        Ok(PasswordRules {
            lockout_failure_attempts: config.int(&key("lockout_failure_attempts")),
            lockout_duration: Duration::from_secs(config.int(&key("lockout_duration"))),
            days_inactive: days("disable_user_account_days_inactive"),
            expires_days: days("password_expires_days"),
            unique_last_password_count: usize::try_from(config.int(&key("unique_last_password_count"))).unwrap_or(usize::MAX),
            minimum_age_days: days("minimum_password_age"),
            pattern,
            description: config.text("security_compliance.password_regex_description").to_string(),
            change_upon_first_use: config.flag("security_compliance.change_password_upon_first_use"),
        })
    }

    /// Whether a new password is strong enough.
    pub fn check_strength(&self, password: &str) -> Result<()> {
        match &self.pattern {
            Some(pattern) if !pattern.admits(password) => {
                let wanted = if self.description.is_empty() { "it does not match the pattern that is set" } else { &self.description };
                Err(Error::invalid(format!("The password is too weak: {wanted}.")))
            }
            _ => Ok(()),
        }
    }

    /// The user's own change must wait until the present password, if the user chose it, is old enough.
    pub fn check_age(&self, user: &User, now: Timestamp) -> Result<()> {
        let Some(created) = user.account.password_created_at.filter(|_| user.account.password_by_self) else { return Ok(()) };
        let end = created.plus(DAY * self.minimum_age_days);
        if now >= end {
            return Ok(());
        }
        let (age, left) = (self.minimum_age_days, end.since(now).as_secs() / DAY.as_secs());
        Err(Error::invalid(format!(
            "A password that its user chose is kept for {age} day(s) at least. This one can be changed in {left} day(s), or by an administrator."
        )))
    }

    /// A password that was used before.
    pub fn repeated(&self) -> Error {
        let count = self.unique_last_password_count;
        Error::invalid(format!("This password was used before: {count} passwords of a user, the new one among them, have to differ."))
    }

    /// When a password ends that `user` gets now. One that somebody else chose may have to be changed before anything else.
    pub fn expiry(&self, user: &User, now: Timestamp, by_self: bool) -> Option<Timestamp> {
        if !by_self && self.change_upon_first_use && !user.has("ignore_change_password_upon_first_use") {
            return Some(now);
        }
        let days = Some(self.expires_days).filter(|days| *days > 0 && !user.has("ignore_password_expiry"))?;
        Some(now.plus(DAY * days))
    }

    pub fn is_expired(&self, user: &User, now: Timestamp) -> bool {
        !user.has("ignore_password_expiry") && user.account.password_expires_at.is_some_and(|end| now >= end)
    }

    /// Whether too many logins failed of late.
    pub fn is_locked(&self, user: &User, now: Timestamp) -> bool {
        self.counts_failures(user)
            && user.account.failed_count >= self.lockout_failure_attempts
            && user.account.failed_at.is_some_and(|last| self.lockout_duration.is_zero() || last.plus(self.lockout_duration) > now)
    }

    pub fn counts(&self) -> bool {
        self.lockout_failure_attempts > 0
    }

    pub fn counts_failures(&self, user: &User) -> bool {
        self.counts() && !user.has("ignore_lockout_failure_attempts")
    }

    /// Whether the user has not been seen for so long that the account is off.
    pub fn is_inactive(&self, user: &User, now: Timestamp) -> bool {
        let seen = user.account.last_active_at.or(user.account.created_at);
        self.minds_inactivity()
            && !user.has("ignore_user_inactivity")
            && seen.is_some_and(|seen| now.since(seen) >= DAY * self.days_inactive)
    }

    pub fn minds_inactivity(&self) -> bool {
        self.days_inactive > 0
    }

    /// Whether a login is worth remembering: one a day is.
    pub fn is_new_day(&self, user: &User, now: Timestamp) -> bool {
        self.minds_inactivity() && user.account.last_active_at.is_none_or(|seen| now.since(seen) >= DAY || seen > now)
    }
}

impl User {
    /// Whether an option is set to true.
    pub fn has(&self, option: &str) -> bool {
        self.options.get(option).and_then(Value::as_bool) == Some(true)
    }
}

/// An expression that is matched in linear time, whatever a user types. What such expressions are known for, conditions at the front
/// (`^(?=.*\d)(?=.*[a-z]).{8,}$`), is taken apart into expressions of their own.
#[derive(Debug)]
struct Pattern {
    /// Each with whether it must match.
    conditions: Vec<(Regex, bool)>,
}

impl Pattern {
    fn read(text: &str) -> Result<Pattern, String> {
        let mut conditions = Vec::new();
        let mut rest = text.strip_prefix('^').unwrap_or(text);
        loop {
            let wanted = match rest.get(..3) {
                Some("(?=") => true,
                Some("(?!") => false,
                _ => break,
            };
            let end = closing(&rest[3..]).ok_or("a parenthesis is not closed")?;
            conditions.push((compile(&rest[3..3 + end])?, wanted));
            rest = &rest[3 + end + 1..];
        }
        if rest.contains("(?=") || rest.contains("(?!") || rest.contains("(?<=") || rest.contains("(?<!") {
            return Err("conditions (`(?=`, `(?!`) are understood only at its front".into());
        }
        conditions.push((compile(rest)?, true));
        Ok(Pattern { conditions })
    }

    fn admits(&self, password: &str) -> bool {
        self.conditions.iter().all(|(regex, wanted)| regex.is_match(password) == *wanted)
    }
}

/// From the start of the text on, as upstream's `re.match` does.
fn compile(text: &str) -> Result<Regex, String> {
    Regex::new(&format!(r"\A(?:{text})")).map_err(|e| e.to_string())
}

/// Where the group ends whose inside `text` begins with.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut escaped, mut class) = (0u32, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ']' if class => class = false,
            _ if class => {}
            '[' => class = true,
            '(' => depth += 1,
            ')' if depth == 0 => return Some(at),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn conditions_at_the_front_are_understood() {
        // The one that upstream's documentation shows.
        let pattern = Pattern::read(r"^(?=.*\d)(?=.*[a-zA-Z]).{7,}$").unwrap();
        for (password, good) in [("abcdef7", true), ("abcdefg", false), ("1234567", false), ("ab1", false), ("ab1 def", true)] {
            assert_eq!(pattern.admits(password), good, "{password}");
        }
        let pattern = Pattern::read(r"^(?!.*(?:pass|word\)))(?=[^)]).{3,}").unwrap();
        for (password, good) in [("abc", true), ("a pass", false), ("word)", false), (")bc", false), ("ab", false)] {
            assert_eq!(pattern.admits(password), good, "{password}");
        }
        assert!(Pattern::read("abc").unwrap().admits("abcd"));
        assert!(!Pattern::read("abc").unwrap().admits("xabc"), "it begins at the start");
        for wrong in ["(?=a", "[", "a(?=b)", "(?<=a)b", "(a"] {
            assert!(Pattern::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_pattern_that_kills_other_engines_is_harmless() {
        // CWE-1333: with backtracking this takes longer than anybody waits.
        let pattern = Pattern::read(r"^(?=(a+)+$)(a|aa)+$").unwrap();
        assert!(!pattern.admits(&format!("{}!", "a".repeat(4000))));
        assert!(pattern.admits(&"a".repeat(4000)));
    }

    proptest! {
        #[test]
        fn any_text_is_an_expression_or_an_error(text in ".{0,40}", password in ".{0,20}") {
            if let Ok(pattern) = Pattern::read(&text) {
                pattern.admits(&password);
            }
        }
    }
}
