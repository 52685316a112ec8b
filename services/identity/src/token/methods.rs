//! The methods of authentication, in the order that gives each its bit in a token.

use base::{Config, Error, Result};

/// The methods that may be used (`token.methods`). A keystone that reads our tokens must have the same list in `[auth] methods`.
pub struct Methods(Vec<String>);

impl Methods {
    pub fn read(config: &Config) -> Result<Methods> {
        let names: Vec<String> = config.text("token.methods").split(',').map(|name| name.trim().to_string()).collect();
        let repeats = names.iter().enumerate().any(|(i, name)| names[..i].contains(name));
        if repeats || names.len() > 32 || names.iter().any(String::is_empty) {
            return Err(Error::invalid("token.methods: at most 32 names, separated by commas, each once"));
        }
        Ok(Methods(names))
    }

    /// Zero: the method may not be used.
    pub fn bit(&self, name: &str) -> u32 {
        self.0.iter().position(|known| known == name).map_or(0, |i| 1 << i)
    }

    pub fn names(&self, bits: u32) -> Vec<&str> {
        self.0.iter().enumerate().filter(|(i, _)| bits & (1 << i) != 0).map(|(_, name)| name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn methods(list: &str) -> Result<Methods> {
        let mut config = Config::for_home("/nonexistent");
        config.set("token.methods", list);
        Methods::read(&config)
    }

    #[test]
    fn bits_follow_the_order() {
        let methods = methods("external, password,token").unwrap();
        assert_eq!((methods.bit("external"), methods.bit("password"), methods.bit("token"), methods.bit("totp")), (1, 2, 4, 0));
        assert_eq!(methods.names(6), ["password", "token"]);
        assert_eq!(methods.names(8), Vec::<&str>::new());
    }

    #[test]
    fn a_list_that_gives_no_bits_is_refused() {
        for list in ["", "password,,token", "password,password"] {
            assert!(methods(list).is_err(), "{list:?}");
        }
        assert!(methods(&(0..33).map(|n| format!("m{n}")).collect::<Vec<_>>().join(",")).is_err());
    }
}
