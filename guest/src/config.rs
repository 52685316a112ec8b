//! The configuration file, as the original client has it: `KEY="value"` on each line.

use std::path::PathBuf;
use std::time::Duration;

use guest::client::Settings;
use guest::message::Action;

/// No heart beats faster.
const SHORTEST: u64 = 400;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub settings: Settings,
    pub health_interval: Duration,
    pub health_script: Option<PathBuf>,
    pub event_script: Option<PathBuf>,
}

impl Config {
    pub fn parse(text: &str) -> Result<Config, String> {
        let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
        let settings = Settings { name, ..Settings::default() };
        let mut config = Config { settings, health_interval: Duration::from_secs(30), health_script: None, event_script: None };
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                config.line(line).map_err(|why| format!("line {}: {why}", number + 1))?;
            }
        }
        Ok(config)
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let (key, value) = line.split_once('=').ok_or("there is no `=` in it")?;
        let (key, value) = (key.trim(), value.trim());
        let quoted = |mark: char| value.strip_prefix(mark).and_then(|v| v.strip_suffix(mark));
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        let number = || value.parse::<u64>().ok().filter(|n| *n <= 1 << 31).ok_or_else(|| format!("`{value}` is no number"));
        let (seconds, milliseconds) = (|| number().map(Duration::from_secs), || number().map(Duration::from_millis));
        let path = || Some(PathBuf::from(value)).filter(|path| !path.as_os_str().is_empty());
        let s = &mut self.settings;
        match key {
            "HB_INTERVAL" => s.interval = Duration::from_millis(number()?.max(SHORTEST)),
            "HB_INIT_RETRY" => s.init_retry = milliseconds()?,
            "HB_MIN_TIMEOUT" => s.challenge_wait = milliseconds()?,
            "VOTE" => s.vote = seconds()?,
            "SHUTDOWN_NOTICE" => s.shutdown_notice = seconds()?,
            "SUSPEND_NOTICE" => s.suspend_notice = seconds()?,
            "RESUME_NOTICE" => s.resume_notice = seconds()?,
            "RESTART" => s.restart = seconds()?,
            "CORRECTIVE_ACTION" => {
                let known = Action::parse(value).filter(|a| matches!(a, Action::Reboot | Action::Stop | Action::Log));
                s.action = known.ok_or_else(|| format!("`{value}` is none of reboot, stop, log"))?;
            }
            "HEALTH_CHECK_INTERVAL" => self.health_interval = seconds()?.max(Duration::from_secs(1)),
            "HEALTH_CHECK_SCRIPT" => self.health_script = path(),
            "EVENT_NOTIFICATION_SCRIPT" => self.event_script = path(),
            // Of later versions, or of others who read the file.
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_is_understood() {
        let text = "# the client\nHB_INTERVAL=\"1000\"\nVOTE=\"8\"\nSHUTDOWN_NOTICE=8\nSUSPEND_NOTICE='9'\n RESUME_NOTICE = \"13\"\n\
            RESTART=\"600\"\nCORRECTIVE_ACTION=\"stop\"\nHEALTH_CHECK_SCRIPT=\"/etc/health\"\nEVENT_NOTIFICATION_SCRIPT=\"\"\nOTHER=1\n";
        let config = Config::parse(text).unwrap();
        let seconds = Duration::from_secs;
        let s = &config.settings;
        assert_eq!((s.interval, s.vote, s.shutdown_notice, s.suspend_notice), (seconds(1), seconds(8), seconds(8), seconds(9)));
        assert_eq!((s.resume_notice, s.restart, s.action), (seconds(13), seconds(600), Action::Stop));
        assert_eq!((config.health_script, config.event_script), (Some("/etc/health".into()), None));
        assert_eq!(Config::parse("HB_INTERVAL=5").unwrap().settings.interval, Duration::from_millis(400));
        assert_eq!(Config::parse("").unwrap().settings.restart, seconds(120));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, why) in
            [("x", "line 1: there is no"), ("\nVOTE=ten", "line 2: `ten`"), ("VOTE=-1", "`-1`"), ("CORRECTIVE_ACTION=none", "none of")]
        {
            let error = Config::parse(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
