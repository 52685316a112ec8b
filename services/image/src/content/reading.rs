//! What is learned of content while it passes. Each hash has a thread of its own: one after another they take longer than
//! the disk and the network together.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use base::{Error, Result, error::Internal};
use bytes::{Bytes, BytesMut};
use md5::Md5;
use sha2::{Digest, Sha256, Sha512};

use super::lane::Lane;
use super::{BLOCK, Facts};
use crate::formats::Inspector;
use crate::signatures::{Hash, Hasher};

/// All that is learned of content while it passes.
pub struct Learned {
    pub facts: Facts,
    pub inspector: Inspector,
    /// The digest that was asked for beside the others.
    pub signed: Option<Box<[u8]>>,
}

/// Content that passes.
pub struct Reading {
    size: u64,
    md5: Lane<Bytes, Md5>,
    sha256: Lane<Bytes, Sha256>,
    sha512: Lane<Bytes, Sha512>,
    signed: Option<Lane<Bytes, Hasher>>,
    inspector: Inspector,
}

impl Reading {
    /// `hash` is that of a signature.
    pub fn start(hash: Option<Hash>) -> Result<Reading> {
        let signed = hash.map(|hash| Lane::start("image-signed", hash.hasher(), |state: &mut Hasher, piece: Bytes| state.update(&piece)));
        Ok(Reading {
            size: 0,
            md5: digest("image-md5")?,
            sha256: digest("image-sha256")?,
            sha512: digest("image-sha512")?,
            signed: signed.transpose()?,
            inspector: Inspector::default(),
        })
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Waits while a hash is behind.
    pub fn feed(&mut self, piece: &Bytes) {
        self.size += piece.len() as u64;
        self.md5.feed(piece.clone());
        self.sha256.feed(piece.clone());
        self.sha512.feed(piece.clone());
        if let Some(signed) = &self.signed {
            signed.feed(piece.clone());
        }
        self.inspector.feed(piece);
    }

    pub fn end(self) -> Result<Learned> {
        let Reading { size, md5, sha256, sha512, signed, inspector } = self;
        let facts = Facts {
            size,
            md5: hex(&md5.end()?.finalize()),
            sha256: hex(&sha256.end()?.finalize()),
            sha512: hex(&sha512.end()?.finalize()),
        };
        Ok(Learned { facts, inspector, signed: signed.map(Lane::end).transpose()?.map(Hasher::end) })
    }
}

fn digest<D: Digest + Send + 'static>(name: &str) -> Result<Lane<Bytes, D>> {
    Lane::start(name, D::new(), |state: &mut D, piece: Bytes| state.update(&piece))
}

/// Reads a file that is there as an upload is read; with the digest of `hash`. Blocks.
pub fn examine(file: &Path, hash: Option<Hash>) -> Result<Learned> {
    let mut file = File::open(file).internal("opening image content")?;
    let mut reading = Reading::start(hash)?;
    loop {
        let mut block = BytesMut::zeroed(BLOCK);
        match file.read(&mut block).internal("reading image content")? {
            0 => return reading.end(),
            n => {
                block.truncate(n);
                reading.feed(&block.freeze());
            }
        }
    }
}

/// The bytes of a hash as it is stored.
pub fn unhex(text: &str) -> Result<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect();
    bytes.ok_or_else(|| Error::internal("a hash that is no hexadecimal number"))
}

pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
