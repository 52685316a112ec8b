//! What an upload really is: detection by content, and the checks that keep a guest's disk from reaching any other file.
//!
//! Everything here is a pure function of the bytes. An [`Inspector`] keeps only the windows of the stream it needs: the
//! first 256 KiB, the last 1.5 KiB, and one more region that the first part points to.

mod bytes;
mod disks;
mod qcow2;
mod vhdx;
mod vmdk;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, Read};

/// How much of the beginning is kept: reaches to the end of VHDX's first region table.
const HEAD: usize = 256 << 10;
/// How much of the end is kept: VMDK's footer between its two markers.
const TAIL: usize = 1536;
/// How much of the region that the head points to is kept.
const REGION: usize = 192 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    Raw,
    Qcow2,
    Qed,
    Vmdk,
    Vhd,
    Vhdx,
    Vdi,
    Iso,
    /// A raw disk with a partition table.
    Gpt,
    Luks,
}

impl Format {
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Qed => "qed",
            Format::Vmdk => "vmdk",
            Format::Vhd => "vhd",
            Format::Vhdx => "vhdx",
            Format::Vdi => "vdi",
            Format::Iso => "iso",
            Format::Gpt => "gpt",
            Format::Luks => "luks",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names a user may declare whose content cannot be told from raw data.
pub const OPAQUE: &[&str] = &["ami", "ari", "aki", "ploop"];

/// One format that the content matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub format: Format,
    /// What a guest would see; none when the header does not say.
    pub virtual_size: Option<u64>,
    /// Why this must not be opened by anyone.
    pub faults: Vec<String>,
}

impl Found {
    fn new(format: Format) -> Self {
        Found { format, virtual_size: None, faults: Vec::new() }
    }
    fn fault(&mut self, text: impl Into<String>) {
        self.faults.push(text.into());
    }
    fn safe(&self) -> Result<(), String> {
        match &self.faults[..] {
            [] => Ok(()),
            faults => Err(format!("the {} content is not safe to use: {}", self.format, faults.join("; "))),
        }
    }
    fn broken(mut self, text: impl Into<String>) -> Self {
        self.fault(text);
        self
    }
}

/// The windows of a stream that the format checks look at.
#[derive(Default)]
pub struct Inspector {
    size: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
    region: Option<Region>,
    /// Whether the head has been asked for a region already.
    asked: bool,
}

struct Region {
    start: u64,
    bytes: Vec<u8>,
}

impl Inspector {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece of the stream, of any length.
    pub fn feed(&mut self, piece: &[u8]) {
        self.keep_tail(piece);
        let room = HEAD - self.head.len();
        let (first, rest) = piece.split_at(room.min(piece.len()));
        self.head.extend_from_slice(first);
        self.size += first.len() as u64;
        if self.head.len() == HEAD && !self.asked {
            self.asked = true;
            self.region = vhdx::region(&self.head).filter(|start| *start >= HEAD as u64).map(|start| Region { start, bytes: Vec::new() });
        }
        if let Some(region) = &mut self.region {
            let wanted = region.start + region.bytes.len() as u64;
            let room = REGION - region.bytes.len();
            // Bytes of `rest` lie at `self.size` and behind; the region is filled without gaps.
            if wanted < self.size + rest.len() as u64 && wanted >= self.size {
                let from = usize::try_from(wanted - self.size).unwrap_or(rest.len());
                let part = &rest[from..];
                region.bytes.extend_from_slice(&part[..part.len().min(room)]);
            }
        }
        self.size += rest.len() as u64;
    }

    fn keep_tail(&mut self, piece: &[u8]) {
        if piece.len() >= TAIL {
            self.tail.clear();
            self.tail.extend_from_slice(&piece[piece.len() - TAIL..]);
        } else {
            self.tail.extend_from_slice(piece);
            let extra = self.tail.len().saturating_sub(TAIL);
            self.tail.drain(..extra);
        }
    }

    /// Every format the content matches, in a fixed order; none: raw data.
    pub fn found(&self) -> Vec<Found> {
        let (head, tail, size) = (&self.head[..], &self.tail[..], self.size);
        let region = self.region.as_ref().map(|r| &r.bytes[..]);
        [
            qcow2::inspect(head, size),
            disks::qed(head),
            vmdk::inspect(head, tail, size),
            disks::vhd(head, tail),
            vhdx::inspect(head, region),
            disks::vdi(head),
            disks::iso(head),
            disks::gpt(head, size),
            disks::luks(head, size),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Reads the whole of `from`.
    pub fn of(mut from: impl Read) -> io::Result<Inspector> {
        let mut inspector = Inspector::new();
        let mut piece = vec![0; 256 << 10];
        loop {
            match from.read(&mut piece)? {
                0 => return Ok(inspector),
                read => inspector.feed(&piece[..read]),
            }
        }
    }

    /// The one format that the content is, with its virtual size; or why nothing may open it.
    pub fn detect(&self) -> Result<(Format, Option<u64>), String> {
        match self.choose()? {
            None => Ok((Format::Raw, Some(self.size))),
            Some(found) => {
                found.safe()?;
                Ok((found.format, found.virtual_size))
            }
        }
    }

    /// What the content is, safe or not; none: several things at once.
    pub fn format(&self) -> Option<Format> {
        self.choose().ok().map(|found| found.map_or(Format::Raw, |found| found.format))
    }

    /// What the content is taken for; none: raw data.
    fn choose(&self) -> Result<Option<Found>, String> {
        let mut found = self.found();
        let formats: Vec<Format> = found.iter().map(|f| f.format).collect();
        match &formats[..] {
            // A bootable ISO carries a partition table, and a fixed VHD is a raw disk with a footer.
            [] | [_] | [Format::Iso, Format::Gpt] | [Format::Vhd, Format::Gpt] | [Format::Vhd, Format::Iso] => {
                found.truncate(1);
                Ok(found.pop())
            }
            _ => {
                let names: Vec<&str> = formats.iter().map(|f| f.as_str()).collect();
                Err(format!("the content matches several formats at once ({})", names.join(", ")))
            }
        }
    }

    /// The virtual size of an image declared as `disk_format`, or why it is refused.
    pub fn judge(&self, disk_format: &str) -> Result<Option<u64>, Refusal> {
        let Some(chosen) = self.choose().map_err(Refusal::Danger)? else {
            return match disk_format {
                "raw" => Ok(Some(self.size)),
                opaque if OPAQUE.contains(&opaque) => Ok(None),
                _ => Err(mismatch(disk_format, Format::Raw)),
            };
        };
        let raw_disk = chosen.format == Format::Gpt;
        if chosen.format.as_str() != disk_format && disk_format != "raw" && !(raw_disk && OPAQUE.contains(&disk_format)) {
            return Err(mismatch(disk_format, chosen.format));
        }
        // A disk that its guest has encrypted is raw to everyone else, whatever its header says.
        let plain = disk_format == "raw" && chosen.format == Format::Luks;
        if !plain {
            chosen.safe().map_err(Refusal::Danger)?;
        }
        // What is declared raw is used as raw, whatever it holds.
        Ok(if disk_format == "raw" { Some(self.size) } else { chosen.virtual_size })
    }
}

/// Why content is refused.
#[derive(Debug, PartialEq)]
pub enum Refusal {
    /// It is not what `disk_format` says. Opened as that it does no harm: nothing here guesses a format.
    Mismatch(String),
    /// Who opens it may be led to something else than its own bytes, or be overwhelmed.
    Danger(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Mismatch(why) | Refusal::Danger(why) => f.write_str(why),
        }
    }
}

fn mismatch(declared: &str, is: Format) -> Refusal {
    Refusal::Mismatch(format!("disk_format is {declared}, but the content is {is}"))
}
