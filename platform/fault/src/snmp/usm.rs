//! Users of SNMP v3 (RFC 3414, RFC 3826): HMAC-MD5-96 or HMAC-SHA-96, and AES-128 in CFB. DES is not there.

use std::path::Path;

use aes::Aes128;
use aes::cipher::{BlockEncrypt, KeyInit, generic_array::GenericArray};
use base::{Error, Result, error::Internal};
use hmac::{Hmac, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;

/// Digests in messages are cut to this.
pub const DIGEST: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Auth {
    Md5,
    Sha,
}

#[derive(Clone, Debug, PartialEq)]
pub struct User {
    pub name: String,
    auth: Auth,
    auth_key: Vec<u8>,
    /// None: this user's messages are signed, but everybody can read them.
    priv_key: Option<[u8; 16]>,
}

impl User {
    pub fn encrypts(&self) -> bool {
        self.priv_key.is_some()
    }

    /// The digest of a whole message whose digest is zeros.
    pub fn digest(&self, message: &[u8]) -> Vec<u8> {
        let mut digest = match self.auth {
            Auth::Md5 => mac::<Hmac<Md5>>(&self.auth_key, message),
            Auth::Sha => mac::<Hmac<Sha1>>(&self.auth_key, message),
        };
        digest.truncate(DIGEST);
        digest
    }

    pub fn encrypt(&self, boots: u32, time: u32, salt: &[u8; 8], plain: &[u8]) -> Option<Vec<u8>> {
        self.priv_key.map(|key| cfb(&key, &vector(boots, time, salt), plain, true))
    }

    pub fn decrypt(&self, boots: u32, time: u32, salt: &[u8; 8], secret: &[u8]) -> Option<Vec<u8>> {
        self.priv_key.map(|key| cfb(&key, &vector(boots, time, salt), secret, false))
    }
}

fn mac<M: Mac + hmac::digest::KeyInit>(key: &[u8], message: &[u8]) -> Vec<u8> {
    // Keys of any length are good for an HMAC.
    let Ok(mut mac) = <M as Mac>::new_from_slice(key) else { return Vec::new() };
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn vector(boots: u32, time: u32, salt: &[u8; 8]) -> [u8; 16] {
    let mut vector = [0; 16];
    vector[..4].copy_from_slice(&boots.to_be_bytes());
    vector[4..8].copy_from_slice(&time.to_be_bytes());
    vector[8..].copy_from_slice(salt);
    vector
}

/// Cipher feedback over blocks of 128 bits.
fn cfb(key: &[u8; 16], vector: &[u8; 16], text: &[u8], encrypt: bool) -> Vec<u8> {
    let cipher = Aes128::new(GenericArray::from_slice(key));
    let mut feedback = *vector;
    let mut out = Vec::with_capacity(text.len());
    for chunk in text.chunks(16) {
        let mut block = GenericArray::from(feedback);
        cipher.encrypt_block(&mut block);
        let done: Vec<u8> = chunk.iter().zip(block).map(|(a, b)| a ^ b).collect();
        // Only a whole chunk is fed back; a shorter one is the last.
        let secret = if encrypt { &done } else { chunk };
        feedback[..secret.len()].copy_from_slice(secret);
        out.extend(done);
    }
    out
}

/// A password's key on this engine.
fn localized(auth: Auth, password: &str, engine: &[u8]) -> Vec<u8> {
    match auth {
        Auth::Md5 => stretched::<Md5>(password.as_bytes(), engine),
        Auth::Sha => stretched::<Sha1>(password.as_bytes(), engine),
    }
}

fn stretched<D: Digest>(password: &[u8], engine: &[u8]) -> Vec<u8> {
    let long: Vec<u8> = password.iter().copied().cycle().take(1 << 20).collect();
    let key = D::digest(&long);
    D::digest([&key[..], engine, &key[..]].concat()).to_vec()
}

/// Lines of `NAME md5|sha PASSWORD [aes PASSWORD]`; `#` begins a remark.
pub fn users(path: &Path, engine: &[u8]) -> Result<Vec<User>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::invalid(format!("`fault.snmp_users`: {}: {e}", path.display())))?;
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.trim())).filter(|(_, l)| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|(n, line)| {
            user(line, engine).ok_or_else(|| {
                Error::invalid(format!(
                    "{}:{n}: a user is NAME md5|sha PASSWORD [aes PASSWORD], with passwords of 8 characters or more",
                    path.display()
                ))
            })
        })
        .collect()
}

fn user(line: &str, engine: &[u8]) -> Option<User> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (name, auth, password, private) = match words[..] {
        [name, auth, password] => (name, auth, password, None),
        [name, auth, password, "aes", private] => (name, auth, password, Some(private)),
        _ => return None,
    };
    let auth = match auth {
        "md5" => Auth::Md5,
        "sha" => Auth::Sha,
        _ => return None,
    };
    if password.len() < 8 || private.is_some_and(|p| p.len() < 8) || name.len() > 32 {
        return None;
    }
    let priv_key = private.and_then(|p| localized(auth, p, engine).get(..16)?.try_into().ok());
    Some(User { name: name.into(), auth, auth_key: localized(auth, password, engine), priv_key })
}

/// This agent's name among all, which never changes, and how often it has started.
pub fn engine(keys: &Path) -> Result<(Vec<u8>, u32)> {
    let path = keys.join("snmp.engine");
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    let mut words = old.split_whitespace();
    let id = words.next().filter(|id| id.len() == 32).map_or_else(base::id::hex, str::to_string);
    let boots = words.next().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0).saturating_add(1).min(i32::MAX as u32);
    let part = path.with_extension("part");
    std::fs::create_dir_all(keys)
        .and_then(|()| std::fs::write(&part, format!("{id} {boots}\n")))
        .and_then(|()| std::fs::File::open(&part)?.sync_all())
        .and_then(|()| std::fs::rename(&part, &path))
        .internal("keeping the SNMP engine's name")?;
    // The enterprise's number with its first bit set, and octets of our own choice.
    let mut engine = vec![0x80, 0, 0x02, 0xdb, 5];
    engine.extend((0..16).filter_map(|i| u8::from_str_radix(id.get(2 * i..2 * i + 2)?, 16).ok()));
    Ok((engine, boots))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn keys_are_those_of_the_standard() {
        // RFC 3414, A.3.
        let engine = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        assert_eq!(hex(&localized(Auth::Md5, "maplesyrup", &engine)), "526f5eed9fcce26f8964c2930787d82b");
        assert_eq!(hex(&localized(Auth::Sha, "maplesyrup", &engine)), "6695febc9288e36282235fc7151f128497b38f3f");
    }

    #[test]
    fn what_is_encrypted_is_read_again_and_is_the_standards() {
        let text: Vec<u8> = (0..100).collect();
        let (key, vector) = ([7; 16], [9; 16]);
        for length in [0, 1, 15, 16, 17, 100] {
            let secret = cfb(&key, &vector, &text[..length], true);
            assert_eq!(cfb(&key, &vector, &secret, false), text[..length]);
        }
        // NIST SP 800-38A, F.3.13, first block.
        let of = |text: &str| -> [u8; 16] { std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()) };
        let secret = cfb(
            &of("2b7e151628aed2a6abf7158809cf4f3c"),
            &of("000102030405060708090a0b0c0d0e0f"),
            &of("6bc1bee22e409f96e93d7e117393172a"),
            true,
        );
        assert_eq!(hex(&secret), "3b3fd92eb72dad20333449f8e83cfb4a");
    }

    #[test]
    fn users_are_one_a_line() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("users");
        std::fs::write(&path, "# who may ask\nalice sha password1 aes password2\n\nbob md5 password3\n").unwrap();
        let found = users(&path, &[1, 2, 3]).unwrap();
        assert_eq!((found.len(), found[0].encrypts(), found[1].encrypts()), (2, true, false));
        for bad in ["alice", "alice sha short", "alice des password1", "alice sha password1 des password2", "alice sha password1 aes short"]
        {
            std::fs::write(&path, bad).unwrap();
            assert!(users(&path, &[1]).unwrap_err().message().contains(":1:"), "{bad}");
        }
    }

    #[test]
    fn an_engine_keeps_its_name_and_counts_its_starts() {
        let home = tempfile::tempdir().unwrap();
        let (first, one) = engine(home.path()).unwrap();
        let (second, two) = engine(home.path()).unwrap();
        assert_eq!((&first, one, two), (&second, 1, 2));
        assert!(first.len() == 21 && first[0] == 0x80);
    }
}
