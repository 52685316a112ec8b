//! SSH keys: reading what users import, making those they ask for.

use base::{Error, Result, error::Internal};
use md5::{Digest, Md5};
use ssh_key::{LineEnding, PrivateKey, PublicKey};

pub struct Made {
    pub public: String,
    pub private: String,
    pub fingerprint: String,
}

/// MD5 of the key's blob as pairs of hex digits, the form the compute API has always shown.
pub fn fingerprint(public_key: &str) -> Result<String> {
    let wrong = || Error::invalid("Keypair data is invalid: failed to generate fingerprint");
    let key: PublicKey = public_key.trim().parse().map_err(|_| wrong())?;
    let blob = key.to_bytes().map_err(|_| wrong())?;
    Ok(Md5::digest(&blob).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"))
}

/// A new Ed25519 key. It takes a moment less than RSA's seconds, and every client of the last ten years knows it.
pub fn generate() -> Result<Made> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| Error::internal(format!("no random numbers: {e}")))?;
    let private =
        PrivateKey::new(ssh_key::private::KeypairData::Ed25519(ssh_key::private::Ed25519Keypair::from_seed(&seed)), "Generated-by-Sturnus")
            .internal("making a key")?;
    let public = private.public_key().to_openssh().internal("writing a key")?;
    Ok(Made {
        fingerprint: fingerprint(&public)?,
        public,
        private: private.to_openssh(LineEnding::LF).internal("writing a key")?.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_key_can_be_imported_and_nonsense_cannot() {
        let made = generate().unwrap();
        assert_eq!(fingerprint(&made.public).unwrap(), made.fingerprint);
        assert!(made.private.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----"));
        for bad in ["", "ssh-rsa", "ssh-rsa AAAA", "ssh-ed25519 !!!! me", "hello world"] {
            assert!(fingerprint(bad).is_err(), "{bad}");
        }
    }
}
