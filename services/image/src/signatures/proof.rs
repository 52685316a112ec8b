//! What compute wants to know of an image before hosts get it: that it is signed, and by whom its user trusts.
//!
//! Certificates are asked for with the user's token, so all that needs them is settled while the request is there. What is left
//! for later is the signature of content whose hash nobody has computed yet.

use base::{Context, Error, Kind, Result, Timestamp, error::Internal};
use serde::{Deserialize, Serialize};

use super::{Expected, Hash, chain};
use crate::Images;
use crate::content;
use crate::model::Image;

/// Why an image may not be used, or what has to be seen yet before it may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// For users to read.
    Refused(String),
    /// The content has to be read.
    Unread(Box<Expected>),
}

/// Whose signatures count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Everybody's whose certificate the key manager has.
    Anybody,
    /// Those whose certificates these have issued: ids in the key manager.
    Issuers(Vec<String>),
    /// Nobody's: certificates are to be validated, and nobody has said by what.
    Nobody,
}

impl Images {
    /// What speaks against starting a server from an image; none: its signature is that of its content, and the signer is trusted.
    /// `token` is the caller's.
    pub async fn image_doubt(&self, ctx: &Context, token: Option<&str>, id: &str, trust: &Trust) -> Result<Option<Doubt>> {
        let image = self.image_show(ctx, id).await?;
        match self.doubt(token, &image, trust).await {
            Err(error) if error.is(Kind::Internal) => Err(error),
            Err(error) => Ok(Some(Doubt::Refused(error.message().to_string()))),
            settled => settled,
        }
    }

    async fn doubt(&self, token: Option<&str>, image: &Image, trust: &Trust) -> Result<Option<Doubt>> {
        let expected = self.signature_expected(token, image).await?;
        let expected = expected.ok_or_else(|| failed("the image is not signed"))?;
        match trust {
            Trust::Anybody => {}
            Trust::Nobody => {
                return Err(Error::invalid(
                    "Image signature certificate validation failed: it is enabled, but no trusted certificate IDs were given.",
                ));
            }
            Trust::Issuers(ids) => {
                let trusted = self.trusted(token.unwrap_or_default(), ids).await;
                chain::trusts(&trusted, &expected.certificate, Timestamp::now())
                    .map_err(|why| Error::invalid(format!("Image signature certificate validation failed for certificate: {why}.")))?;
            }
        }
        let digest = match (expected.hash(), image.os_hash_algo.as_deref()) {
            (Hash::Sha256, _) => image.sha256.as_deref(),
            (Hash::Sha512, Some("sha512")) => image.os_hash_value.as_deref(),
            _ => None,
        };
        match digest {
            Some(digest) => verified(&expected, &image.id, &content::unhex(digest)?).map(|()| None),
            None => Ok(Some(Doubt::Unread(Box::new(expected)))),
        }
    }

    /// The certificates that can be had; the others vouch for nobody, as upstream has it.
    async fn trusted(&self, token: &str, ids: &[String]) -> Vec<Vec<u8>> {
        let mut trusted = Vec::new();
        // An id becomes part of a URL.
        for id in ids.iter().filter(|id| base::id::is_uuid(id)) {
            match self.key_manager().certificate(token, id).await {
                Ok(document) => trusted.push(document),
                Err(error) => tracing::info!(id, "a trusted certificate is passed over: {}", error.chain()),
            }
        }
        trusted
    }

    /// Settles a doubt by the content, which is here ([`Images::content_bring`]).
    pub async fn doubt_settle(&self, doubt: &Doubt, sha256: &str) -> Result<()> {
        let expected = match doubt {
            Doubt::Refused(why) => return Err(Error::conflict(why.clone())),
            Doubt::Unread(expected) => expected.clone(),
        };
        let file = self.stores().local().file(sha256).ok_or_else(|| Error::internal("a content name that is no SHA-256"))?;
        let hash = expected.hash();
        let learned =
            tokio::task::spawn_blocking(move || content::examine(&file, Some(hash))).await.internal("reading image content")??;
        if learned.facts.sha256 != sha256 {
            return Err(Error::internal(format!("{sha256} is damaged: its content is not what its name says")));
        }
        verified(&expected, sha256, learned.signed.as_deref().unwrap_or_default())
            .map_err(|error| Error::conflict(error.message().to_string()))
    }
}

fn verified(expected: &Expected, id: &str, digest: &[u8]) -> Result<()> {
    expected.check(id, Some(digest)).map_err(|_| failed("the signature is not of this content by this certificate's key"))
}

fn failed(why: &str) -> Error {
    Error::invalid(format!("Signature verification for the image failed: {why}."))
}
