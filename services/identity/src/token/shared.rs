//! Keys in a database that several controllers share: what is there is in force, directories are copies of it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use argon2::{Algorithm, Argon2, Params, Version};
use base::{Config, Error, Result, Timestamp, error::Internal};
use base64::{Engine, engine::general_purpose::URL_SAFE, engine::general_purpose::URL_SAFE_NO_PAD};
use fernet::Fernet;
use sha2::{Digest, Sha256};
use store::{Tx, params};

use super::keys::{self, Texts};

/// Seals keys for the database. Whoever reads a copy of it has no keys by that; whoever may write it needs none.
pub struct Seal {
    secret: String,
    /// By salt: to derive one takes its time.
    known: Mutex<HashMap<String, Fernet>>,
}

impl Seal {
    pub fn read(config: &Config) -> Result<Seal> {
        let secret = match config.text("keys.secret_file") {
            "" => password_of(config.text("store")).to_string(),
            file => {
                let text = std::fs::read_to_string(file).map_err(|e| Error::invalid(format!("keys.secret_file: {file}: {e}")))?;
                text.trim().to_string()
            }
        };
        Ok(Seal { secret, known: Mutex::default() })
    }

    fn seal(&self, text: &str) -> Result<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).iter().next().map(|(salt, key)| (salt.clone(), key.clone()));
        let (salt, key) = match known {
            Some(known) => known,
            None => {
                let mut salt = [0u8; 16];
                getrandom::fill(&mut salt).map_err(|e| Error::internal(format!("no random numbers: {e}")))?;
                let salt = URL_SAFE_NO_PAD.encode(salt);
                (salt.clone(), self.key(&salt)?)
            }
        };
        Ok(format!("{salt}.{}", key.encrypt(text.as_bytes())))
    }

    /// `None` for what was sealed with another secret.
    fn open(&self, sealed: &str) -> Result<Option<String>> {
        let Some((salt, sealed)) = sealed.split_once('.') else { return Ok(None) };
        Ok(self.key(salt)?.decrypt(sealed).ok().and_then(|text| String::from_utf8(text).ok()))
    }

    fn key(&self, salt: &str) -> Result<Fernet> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = known.get(salt) {
            return Ok(key.clone());
        }
        let mut derived = [0u8; 32];
        let params = Params::new(19_456, 2, 1, Some(32)).map_err(|e| Error::internal(format!("deriving a key: {e}")))?;
        let salted = URL_SAFE_NO_PAD.decode(salt).ok().filter(|bytes| bytes.len() >= 8);
        let salted = salted.ok_or_else(|| Error::internal("a shared key has no salt"))?;
        let done =
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(self.secret.as_bytes(), &salted, &mut derived);
        done.map_err(|e| Error::internal(format!("deriving a key: {e}")))?;
        let key = Fernet::new(&URL_SAFE.encode(derived)).ok_or_else(|| Error::internal("deriving a key"))?;
        known.insert(salt.to_string(), key.clone());
        Ok(key)
    }
}

/// That of a URL of a database, as it is written there; empty: it has none.
fn password_of(url: &str) -> &str {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest).split(['/', '?']).next().unwrap_or_default();
    authority.rsplit_once('@').and_then(|(user, _)| user.split_once(':')).map_or("", |(_, password)| password)
}

struct Stored {
    name: String,
    sealed: String,
    digest: String,
}

fn rows_in(tx: &Tx, repository: &str) -> Result<Vec<Stored>> {
    let sql = "SELECT name, sealed, digest FROM shared_key WHERE repository = ?1 ORDER BY name";
    tx.query(sql, params![repository], |row| Ok(Stored { name: row.text(0)?, sealed: row.text(1)?, digest: row.text(2)? }))
}

fn digest(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(text))
}

/// Whether the database has these keys and no others.
pub fn are_in(tx: &Tx, repository: &str, own: &Texts) -> Result<bool> {
    let rows = rows_in(tx, repository)?;
    let same = |row: &Stored| row.name.parse().ok().and_then(|number: u64| own.get(&number)).is_some_and(|text| digest(text) == row.digest);
    Ok(rows.len() == own.len() && rows.iter().all(same))
}

/// The keys in force: those of the database; when it has none, the own ones, which it has from then on. Those of it that are sealed with another secret
/// (a password was changed) are sealed anew if they are among the own ones; `Internal` when they are not.
pub fn agree_in(tx: &Tx, repository: &str, seal: &Seal, own: &Texts) -> Result<Texts> {
    tx.lock("identity.keys")?;
    let rows = rows_in(tx, repository)?;
    if rows.is_empty() {
        store_in(tx, repository, seal, own)?;
        return Ok(own.clone());
    }
    let (mut texts, mut anew) = (Texts::new(), false);
    for row in rows {
        let opened = seal.open(&row.sealed)?;
        anew |= opened.is_none();
        let text = opened.or_else(|| own.values().find(|text| digest(text) == row.digest).cloned());
        let lost = || {
            let message = format!(
                "the {repository} keys in the database are sealed with another secret than `keys.secret_file` or the password in `store`"
            );
            Error::internal(message)
        };
        let number = row.name.parse().internal("the name of a shared key")?;
        texts.insert(number, text.ok_or_else(lost)?);
    }
    if anew {
        store_in(tx, repository, seal, &texts)?;
    }
    Ok(texts)
}

fn store_in(tx: &Tx, repository: &str, seal: &Seal, texts: &Texts) -> Result<()> {
    for (number, text) in texts {
        tx.execute(
            "INSERT INTO shared_key (repository, name, sealed, digest, made_at) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT (repository, name) DO UPDATE SET sealed = excluded.sealed, digest = excluded.digest",
            params![repository, number.to_string(), seal.seal(text)?, digest(text), Timestamp::now()],
        )?;
    }
    Ok(())
}

/// Makes the staged key primary and stages a new one, as [`keys::rotate`]: all in one step, so that of two controllers one does it. With `age`, only
/// when the primary key is that old; tells whether it was done.
pub fn rotate_in(tx: &Tx, repository: &str, seal: &Seal, own: &Texts, keep: usize, age: Option<Duration>) -> Result<bool> {
    let before = agree_in(tx, repository, seal, own)?;
    let primary = before.keys().next_back().copied().unwrap_or_default().to_string();
    let sql = "SELECT made_at FROM shared_key WHERE repository = ?1 AND name = ?2";
    let made_at = tx.query_opt(sql, params![repository, &primary], |row| row.time(0))?;
    if age.is_some_and(|age| made_at.is_some_and(|made_at| Timestamp::now() < made_at.plus(age))) {
        return Ok(false);
    }
    let after = keys::next(&before, keep)?;
    store_in(tx, repository, seal, &after)?;
    for number in before.keys().filter(|number| !after.contains_key(number)) {
        tx.execute("DELETE FROM shared_key WHERE repository = ?1 AND name = ?2", params![repository, number.to_string()])?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(url: &str) -> Seal {
        let mut config = Config::for_home("/nonexistent");
        config.set("store", url);
        Seal::read(&config).unwrap()
    }

    #[test]
    fn the_secret_is_in_the_url() {
        for (url, password) in [
            ("postgresql://u:p%40ss:word@h:5432/d", "p%40ss:word"),
            ("postgresql://u:p@ss@h/d", "p@ss"),
            ("postgresql://u@h/d", ""),
            ("postgresql://h/d?user=a:b@c", ""),
            ("sqlite", ""),
        ] {
            assert_eq!(password_of(url), password, "{url}");
        }
    }

    #[tokio::test]
    async fn of_two_who_rotate_one_does() {
        store::testing::each_backend(|store| async move {
            store.migrate("identity", crate::MIGRATIONS).await.unwrap();
            let own = Texts::from([(0, Fernet::generate_key()), (1, Fernet::generate_key())]);
            let rotate = async |age: Duration| {
                let own = own.clone();
                store.write(move |tx| rotate_in(tx, "token", &seal(""), &own, 3, Some(age))).await.unwrap()
            };
            assert!(!rotate(Duration::from_secs(3600)).await, "the key is new");
            assert!(rotate(Duration::ZERO).await);
            assert!(!rotate(Duration::from_secs(3600)).await, "it was just done");
            let agreed = store.write({
                let own = own.clone();
                move |tx| agree_in(tx, "token", &seal(""), &own)
            });
            let agreed = agreed.await.unwrap();
            assert_eq!((agreed.len(), &agreed[&1], &agreed[&2]), (3, &own[&1], &own[&0]));
            assert!(store.read(|tx| Ok(are_in(tx, "token", &agreed)? && !are_in(tx, "token", &own)?)).await.unwrap());
        })
        .await;
    }

    #[test]
    fn who_has_the_secret_opens_what_another_sealed() {
        let (one, other, stranger) = (seal("postgresql://a:secret@h/d"), seal("postgresql://b:secret@k/d"), seal("postgresql://a:x@h/d"));
        let sealed = one.seal("a key").unwrap();
        assert_eq!(other.open(&sealed).unwrap().as_deref(), Some("a key"));
        assert_eq!(stranger.open(&sealed).unwrap(), None);
        assert!(!sealed.contains("a key"));
        // The second one seals as the first did: to derive a key again would take its time.
        assert_eq!(other.seal("b").unwrap().split_once('.').unwrap().0, sealed.split_once('.').unwrap().0);
        assert!(one.open("nonsense").unwrap().is_none() && one.open("x.y").is_err());
    }
}
