//! Conversion by `qemu-img`, which gets only files that the inspection has passed, in the format that was found, with nothing
//! beside them, and limits on what it may use.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use base::error::Internal;
use base::{Error, Kind, Result};
use serde_json::json;

use crate::formats::{Format, Inspector};

/// Address space of the converter: its buffers and tables are a fraction of this.
const MEMORY: u64 = 2 << 30;
/// CPU time it may take: a good deal more than the slowest compression needs.
const SECONDS: u64 = 60;
const SECONDS_A_GIB: u64 = 120;

/// What QEMU calls a format that can be converted; none for others.
fn driver(format: Format) -> Option<&'static str> {
    match format {
        Format::Raw | Format::Gpt => Some("raw"),
        Format::Qcow2 => Some("qcow2"),
        Format::Vmdk => Some("vmdk"),
        Format::Vhd => Some("vpc"),
        Format::Vhdx => Some("vhdx"),
        Format::Vdi => Some("vdi"),
        Format::Qed | Format::Iso | Format::Luks => None,
    }
}

/// What a file is, when it is one thing and safe. The error is for its owner.
fn detect(file: &Path) -> Result<(Format, Option<u64>)> {
    let inspector = Inspector::of(&mut File::open(file).internal("opening image content")?).internal("reading image content")?;
    let refused = |why: String| Error::new(Kind::UnsupportedMediaType, format!("The content cannot be converted: {why}."));
    inspector.detect().map_err(refused)
}

/// Converts `file`, declared as `disk_format`, into `target`, a new file of format `output`. False: it is so already, or it is an
/// ISO, which stays what it is; then there is no new file. `max`: bytes that the new file may have. Blocks.
pub fn convert(file: &Path, disk_format: &str, target: &Path, output: &str, max: u64) -> Result<bool> {
    let (found, virtual_size) = detect(file)?;
    // A raw disk with a partition table is a raw disk.
    let name = if found == Format::Gpt { "raw" } else { found.as_str() };
    if name != disk_format {
        let why = format!("disk_format is {disk_format}, but the content is {name}");
        return Err(Error::new(Kind::UnsupportedMediaType, format!("The content cannot be converted: {why}.")));
    }
    if found == Format::Iso || name == output {
        return Ok(false);
    }
    let Some(driver) = driver(found) else {
        return Err(Error::new(Kind::UnsupportedMediaType, format!("Content of format {name} cannot be converted to {output}.")));
    };
    let size = virtual_size.unwrap_or(u64::MAX);
    if size > max {
        return Err(Error::new(Kind::TooLarge, format!("Converted the image would have {size} bytes: at most {max} are accepted.")));
    }
    run(file, driver, target, output, size, max)?;
    let (made, made_size) = detect(target)?;
    if made_size.is_some_and(|made| made > size.saturating_add(511)) {
        // Flavors and quotas are compared with what the inspection says.
        return Err(Error::new(Kind::UnsupportedMediaType, "The content cannot be converted: its header tells two sizes of its disk."));
    }
    let made = if made == Format::Gpt { "raw" } else { made.as_str() };
    if made != output {
        // A disk within a disk: whoever guesses formats would take it for the inner one.
        return Err(Error::new(Kind::UnsupportedMediaType, format!("Converted to {output} the content looks like {made}.")));
    }
    File::open(target).and_then(|file| file.sync_all()).internal("writing converted content")?;
    Ok(true)
}

fn run(file: &Path, driver: &str, target: &Path, output: &str, size: u64, max: u64) -> Result<()> {
    // Named in full: no header is asked for a format, no protocol is read out of a name, no parent is opened.
    let mut source = json!({"driver": driver, "read-only": true, "file": {"driver": "file", "filename": file}});
    if matches!(driver, "qcow2" | "vmdk") {
        source["backing"] = serde_json::Value::Null;
    }
    let seconds = SECONDS + SECONDS_A_GIB * size.div_ceil(1 << 30);
    let mut command = Command::new("prlimit");
    command
        .args([format!("--as={MEMORY}"), format!("--cpu={seconds}"), format!("--fsize={max}"), "--core=0".into()])
        .args(["nice", "-n", "19", "ionice", "-c", "3", "qemu-img", "convert", "-q", "-O", output])
        .arg(format!("json:{source}"))
        .arg(target)
        .stdin(Stdio::null());
    let done = command.output().internal("running qemu-img")?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr).trim().to_string();
    tracing::info!(file = %file.display(), "qemu-img: {said} ({})", done.status);
    Err(Error::new(Kind::UnsupportedMediaType, "The content cannot be converted: it is damaged, or needs more than it may take."))
}
