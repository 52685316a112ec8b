//! The administrator's password and the files that make stock clients work: `openrc` and `clouds.yaml`.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base::{Config, Result, error::Internal};

/// The password in `$STURNUS_HOME/openrc`; at first start a random one, written there before it is used,
/// so that a crash in between loses nothing.
pub fn ensure(config: &Config) -> Result<String> {
    let password = match read(&config.home().join("openrc")) {
        Some(password) => password,
        None => random_password()?,
    };
    save(config, &password)?;
    Ok(password)
}

/// Writes both files with a password of [`random_password`]'s letters.
pub fn save(config: &Config, password: &str) -> Result<()> {
    let home = config.home();
    let url = format!("{}/identity/v3", config.public_url());
    let region = config.text("region");
    let authority = authority(config);
    let mut exports = vec![
        ("OS_AUTH_URL", url.as_str()),
        ("OS_USERNAME", "admin"),
        ("OS_PASSWORD", password),
        ("OS_PROJECT_NAME", "admin"),
        ("OS_USER_DOMAIN_NAME", "Default"),
        ("OS_PROJECT_DOMAIN_NAME", "Default"),
        ("OS_REGION_NAME", region),
        ("OS_IDENTITY_API_VERSION", "3"),
    ];
    let mut cacert = String::new();
    if let Some(path) = &authority {
        exports.push(("OS_CACERT", path));
        cacert = format!("    cacert: {path}\n");
    }
    let openrc: String = exports.iter().map(|(name, value)| format!("export {name}={value}\n")).collect();
    let clouds = format!(
        "clouds:\n  sturnus:\n    auth:\n      auth_url: {url}\n      username: admin\n      password: {password}\n      project_name: admin\n      \
         user_domain_name: Default\n      project_domain_name: Default\n    region_name: {region}\n    identity_api_version: 3\n{cacert}"
    );
    write(&home.join("openrc"), &openrc)?;
    write(&home.join("clouds.yaml"), &clouds)
}

/// What clients must trust besides what they trust anyway: our own authority, where it signs the API's certificate.
fn authority(config: &Config) -> Option<String> {
    let own = !config.listen().ip().is_loopback() && config.text("tls.certificate").is_empty();
    own.then(|| config.home().join("pki/ca.crt").display().to_string())
}

fn read(openrc: &Path) -> Option<String> {
    let text = std::fs::read_to_string(openrc).ok()?;
    text.lines().find_map(|line| line.strip_prefix("export OS_PASSWORD=")).map(str::to_string)
}

pub fn random_password() -> Result<String> {
    let mut bytes = [0; 18];
    getrandom::fill(&mut bytes).map_err(|e| base::Error::internal(format!("no random numbers: {e}")))?;
    // 64 letters and digits that no shell and no YAML reader treats specially.
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789Zz";
    Ok(bytes.iter().map(|b| LETTERS[usize::from(b & 63)] as char).collect())
}

/// Only for its owner, and whole or not at all. A file that says this already stays as it is.
fn write(path: &Path, text: &str) -> Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    let part = path.with_extension("part");
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part).internal("writing the credentials")?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).internal("writing the credentials")?;
    std::fs::rename(&part, path).internal("writing the credentials")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_whom_to_trust_where_our_own_authority_signs() {
        let home = tempfile::tempdir().unwrap();
        let mut config = Config::for_home(home.path());
        let files = |config: &Config| {
            ensure(config).unwrap();
            ["openrc", "clouds.yaml"].map(|name| std::fs::read_to_string(home.path().join(name)).unwrap())
        };
        assert!(files(&config).iter().all(|text| !text.contains("ca.crt")), "plain HTTP on loopback");
        config.set("listen", "192.0.2.7:5000");
        let [openrc, clouds] = files(&config);
        let path = home.path().join("pki/ca.crt");
        assert!(openrc.contains(&format!("export OS_CACERT={}\n", path.display())), "{openrc}");
        assert!(clouds.contains(&format!("    cacert: {}\n", path.display())), "{clouds}");
        config.set("tls.certificate", "given.crt");
        assert!(files(&config).iter().all(|text| !text.contains("ca.crt")), "a given certificate is the giver's affair");
    }
}
