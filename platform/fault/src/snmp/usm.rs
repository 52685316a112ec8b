//! Users of SNMP v3 (RFC 3414, RFC 3826): HMAC-MD5-96 or HMAC-SHA-96 or neither, and AES-128 in CFB or DES in CBC or neither.

use std::path::Path;

use aes::Aes128;
use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit, generic_array::GenericArray};
use base::{Error, Result, error::Internal};
use des::Des;
use hmac::{Hmac, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;

use super::message::Level;

/// Digests in messages are cut to this.
pub const DIGEST: usize = 12;
/// What DES works on at once, in bytes.
const DES_BLOCK: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Auth {
    Md5,
    Sha,
}

#[derive(Clone, Debug, PartialEq)]
enum Cipher {
    Aes([u8; 16]),
    /// The key, and what the salt is mixed with for the first block's vector.
    Des([u8; DES_BLOCK], [u8; DES_BLOCK]),
}

#[derive(Clone, Debug, PartialEq)]
pub struct User {
    pub name: String,
    /// How messages are signed, and the key. None: this user is whoever says so.
    auth: Option<(Auth, Vec<u8>)>,
    /// None: everybody can read this user's messages.
    cipher: Option<Cipher>,
}

impl User {
    /// What all messages from and to this user have.
    pub fn level(&self) -> Level {
        match (&self.auth, &self.cipher) {
            (None, _) => Level::Plain,
            (Some(_), None) => Level::Signed,
            (Some(_), Some(_)) => Level::Private,
        }
    }

    /// The digest of a whole message whose digest is zeros; of one who does not sign it fits none.
    pub fn digest(&self, message: &[u8]) -> Vec<u8> {
        let mut digest = match &self.auth {
            None => Vec::new(),
            Some((Auth::Md5, key)) => mac::<Hmac<Md5>>(key, message),
            Some((Auth::Sha, key)) => mac::<Hmac<Sha1>>(key, message),
        };
        digest.truncate(DIGEST);
        digest
    }

    pub fn encrypt(&self, boots: u32, time: u32, salt: &[u8; 8], plain: &[u8]) -> Option<Vec<u8>> {
        self.cipher.as_ref().map(|cipher| match cipher {
            Cipher::Aes(key) => cfb(key, &vector(boots, time, salt), plain, true),
            Cipher::Des(key, mix) => cbc_encrypt(key, &mixed(mix, salt), plain),
        })
    }

    /// None also for what cannot have been encrypted so.
    pub fn decrypt(&self, boots: u32, time: u32, salt: &[u8; 8], secret: &[u8]) -> Option<Vec<u8>> {
        self.cipher.as_ref().and_then(|cipher| match cipher {
            Cipher::Aes(key) => Some(cfb(key, &vector(boots, time, salt), secret, false)),
            Cipher::Des(key, mix) => cbc_decrypt(key, &mixed(mix, salt), secret),
        })
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

fn mixed(mix: &[u8; DES_BLOCK], salt: &[u8; DES_BLOCK]) -> [u8; DES_BLOCK] {
    std::array::from_fn(|i| mix[i] ^ salt[i])
}

/// Cipher block chaining; the last block is filled with zeros, which no reader looks at.
fn cbc_encrypt(key: &[u8; DES_BLOCK], vector: &[u8; DES_BLOCK], plain: &[u8]) -> Vec<u8> {
    let cipher = Des::new(GenericArray::from_slice(key));
    let mut chain = GenericArray::from(*vector);
    let mut out = Vec::with_capacity(plain.len() + DES_BLOCK);
    for chunk in plain.chunks(DES_BLOCK) {
        chain.iter_mut().zip(chunk).for_each(|(chained, byte)| *chained ^= byte);
        cipher.encrypt_block(&mut chain);
        out.extend(chain);
    }
    out
}

fn cbc_decrypt(key: &[u8; DES_BLOCK], vector: &[u8; DES_BLOCK], secret: &[u8]) -> Option<Vec<u8>> {
    if secret.is_empty() || !secret.len().is_multiple_of(DES_BLOCK) {
        return None;
    }
    let cipher = Des::new(GenericArray::from_slice(key));
    let mut chain: &[u8] = vector;
    let mut out = Vec::with_capacity(secret.len());
    for chunk in secret.chunks(DES_BLOCK) {
        let mut block = *GenericArray::from_slice(chunk);
        cipher.decrypt_block(&mut block);
        out.extend(block.iter().zip(chain).map(|(byte, chained)| byte ^ chained));
        chain = chunk;
    }
    Some(out)
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

/// Lines of `NAME none` and `NAME md5|sha PASSWORD [aes|des PASSWORD]`; `#` begins a remark.
pub fn users(path: &Path, engine: &[u8]) -> Result<Vec<User>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::invalid(format!("`fault.snmp_users`: {}: {e}", path.display())))?;
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.trim())).filter(|(_, l)| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|(n, line)| {
            user(line, engine).ok_or_else(|| {
                Error::invalid(format!(
                    "{}:{n}: a user is NAME none, or NAME md5|sha PASSWORD [aes|des PASSWORD], with passwords of 8 characters or more",
                    path.display()
                ))
            })
        })
        .collect()
}

fn user(line: &str, engine: &[u8]) -> Option<User> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (name, auth, private) = match words[..] {
        [name, "none"] => (name, None, None),
        [name, auth, password] => (name, Some((auth, password)), None),
        [name, auth, password, cipher, private] => (name, Some((auth, password)), Some((cipher, private))),
        _ => return None,
    };
    if name.len() > 32 || auth.iter().chain(&private).any(|(_, password)| password.len() < 8) {
        return None;
    }
    let Some((auth, password)) = auth else { return Some(User { name: name.into(), auth: None, cipher: None }) };
    let auth = match auth {
        "md5" => Auth::Md5,
        "sha" => Auth::Sha,
        _ => return None,
    };
    let cipher = match private {
        None => None,
        Some((cipher, password)) => {
            let key: [u8; 16] = localized(auth, password, engine).get(..16)?.try_into().ok()?;
            let half = |at: usize| std::array::from_fn(|i| key[at + i]);
            match cipher {
                "aes" => Some(Cipher::Aes(key)),
                "des" => Some(Cipher::Des(half(0), half(DES_BLOCK))),
                _ => return None,
            }
        }
    };
    Some(User { name: name.into(), auth: Some((auth, localized(auth, password, engine))), cipher })
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
    fn blocks_are_chained_as_the_standard_has_it() {
        // FIPS 81, table C1: "Now is the time for all " by the key 0123456789abcdef and the vector 1234567890abcdef.
        let of = |text: &str| -> [u8; 8] { std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()) };
        let (key, vector) = (of("0123456789abcdef"), of("1234567890abcdef"));
        let secret = cbc_encrypt(&key, &vector, b"Now is the time for all ");
        assert_eq!(hex(&secret), "e5c7cdde872bf27c43e934008c389c0f683788499a7c05f6");
        assert_eq!(cbc_decrypt(&key, &vector, &secret).unwrap(), b"Now is the time for all ");
        // What does not fill its last block comes back with zeros behind it; what is no whole number of blocks was not encrypted so.
        let padded = cbc_decrypt(&key, &vector, &cbc_encrypt(&key, &vector, b"ten octets")).unwrap();
        assert_eq!((&padded[..10], &padded[10..]), (&b"ten octets"[..], &[0; 6][..]));
        assert!(cbc_decrypt(&key, &vector, &secret[..23]).is_none() && cbc_decrypt(&key, &vector, &[]).is_none());
    }

    #[test]
    fn users_are_one_a_line() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("users");
        let good = "# who may ask\nalice sha password1 aes password2\n\nbob md5 password3\ncarol md5 password4 des password5\ndave none\n";
        std::fs::write(&path, good).unwrap();
        let levels: Vec<Level> = users(&path, &[1, 2, 3]).unwrap().iter().map(User::level).collect();
        assert_eq!(levels, [Level::Private, Level::Signed, Level::Private, Level::Plain]);
        for bad in [
            "alice",
            "alice sha short",
            "alice des password1",
            "alice sha password1 rc4 password2",
            "alice sha password1 aes short",
            "alice none password1 aes password2",
            "alice none aes",
        ] {
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
