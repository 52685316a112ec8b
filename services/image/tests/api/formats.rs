//! The inspection beside QEMU: what it accepts QEMU opens as the same thing, and finds no other file in.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use image::formats::Inspector;
use proptest::prelude::*;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Runs `qemu-img` in a directory; its output.
fn qemu_img(directory: &Path, arguments: &[&str]) -> String {
    let done = Command::new("qemu-img").current_dir(directory).args(arguments).output().expect("qemu-img is needed for this test");
    assert!(done.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// What QEMU says of a file in a format; none when it does not open it.
fn info(file: &Path, format: &str) -> Option<Value> {
    let done = Command::new("qemu-img").args(["info", "--output=json", "-f", format]).arg(file).output().expect("qemu-img");
    done.status.success().then(|| serde_json::from_slice(&done.stdout).unwrap())
}

fn judge(file: &Path, declared: &str) -> Result<Option<u64>, String> {
    let mut inspector = Inspector::new();
    std::fs::read(file).unwrap().chunks(65536).for_each(|piece| inspector.feed(piece));
    inspector.judge(declared).map_err(|refusal| refusal.to_string())
}

/// Our names of formats, and QEMU's.
const FORMATS: [(&str, &str); 6] = [("raw", "raw"), ("qcow2", "qcow2"), ("vmdk", "vmdk"), ("vhd", "vpc"), ("vhdx", "vhdx"), ("vdi", "vdi")];

fn qemu_name(format: &str) -> &'static str {
    FORMATS.iter().find(|(ours, _)| *ours == format).unwrap().1
}

/// A disk of 4 MiB with something in it, in a format with options.
fn disk(directory: &Path, format: &str, options: &str) -> PathBuf {
    let source = directory.join("source.raw");
    if !source.exists() {
        let content: Vec<u8> = (0..4 * MIB).map(|n| if n < MIB { (n % 251) as u8 } else { 0 }).collect();
        std::fs::write(&source, content).unwrap();
    }
    let name = format!("{format}-{}", options.replace(['=', ',', '.'], "-"));
    let mut arguments = vec!["convert", "-f", "raw", "-O", qemu_name(format)];
    if !options.is_empty() {
        arguments.extend(["-o", options]);
    }
    arguments.extend(["source.raw", &name]);
    qemu_img(directory, &arguments);
    directory.join(name)
}

#[test]
fn what_qemu_makes_is_known_with_its_size() {
    let home = tempfile::tempdir().unwrap();
    for (format, options) in [
        ("raw", ""),
        ("qcow2", ""),
        ("qcow2", "compat=0.10"),
        ("qcow2", "cluster_size=512"),
        ("qcow2", "cluster_size=2M"),
        ("qcow2", "lazy_refcounts=on"),
        ("qcow2", "extended_l2=on,cluster_size=128k"),
        ("qcow2", "preallocation=metadata"),
        ("qcow2", "preallocation=full,refcount_bits=64"),
        ("qcow2", "compression_type=zstd"),
        ("vmdk", ""),
        ("vmdk", "subformat=monolithicSparse,adapter_type=lsilogic,hwversion=10"),
        ("vmdk", "subformat=streamOptimized"),
        ("vmdk", "compat6=on"),
        ("vhd", "subformat=dynamic"),
        ("vhd", "subformat=fixed"),
        ("vhd", "subformat=dynamic,force_size=on"),
        ("vhd", "subformat=fixed,force_size=on"),
        ("vhdx", "subformat=dynamic"),
        ("vhdx", "subformat=fixed,block_size=1M"),
        ("vdi", ""),
        ("vdi", "static=on"),
    ] {
        let file = disk(home.path(), format, options);
        let size = info(&file, qemu_name(format)).unwrap()["virtual-size"].as_u64().unwrap();
        assert_eq!(judge(&file, format), Ok(Some(size)), "{format} {options}");
        for (other, _) in FORMATS.iter().filter(|(other, _)| *other != format && *other != "raw") {
            assert!(judge(&file, other).unwrap_err().contains("but the content is"), "{format} {options} as {other}");
        }
    }
}

#[test]
fn what_reaches_out_of_its_file_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let (home, there) = (home.path(), |name: &str| home.path().join(name));
    disk(home, "raw", "");
    for (format, options, why) in [
        ("qcow2", "data_file=data.raw", "external data file"),
        ("vmdk", "subformat=monolithicFlat", "bare descriptor"),
        ("vmdk", "subformat=twoGbMaxExtentSparse", "bare descriptor"),
        ("vmdk", "subformat=twoGbMaxExtentFlat", "bare descriptor"),
    ] {
        let file = disk(home, format, options);
        for declared in [format, "raw"] {
            let text = judge(&file, declared).unwrap_err();
            assert!(text.contains(why), "{format} {options} as {declared}: {text}");
        }
    }
    qemu_img(home, &["create", "-q", "-f", "qed", "old", "4M"]);
    assert!(judge(&there("old"), "raw").unwrap_err().contains("no longer maintained"));
    qemu_img(home, &["create", "-q", "-f", "qcow2", "-b", "source.raw", "-F", "raw", "over"]);
    assert!(judge(&there("over"), "qcow2").unwrap_err().contains("backing file"));
    disk(home, "vmdk", "");
    qemu_img(home, &["create", "-q", "-f", "vmdk", "-b", "vmdk-", "-F", "vmdk", "below"]);
    assert!(judge(&there("below"), "vmdk").unwrap_err().contains("parent"));
}

/// A parent where only QEMU's way of reading finds it.
#[test]
fn qemu_follows_what_looks_like_a_comment() {
    let home = tempfile::tempdir().unwrap();
    let file = disk(home.path(), "vmdk", "");
    let plain = std::fs::read(&file).unwrap();
    let at = 512 + plain[512..].windows(8).position(|w| w == b"# Extent").unwrap();
    let end = 512 + plain[512..].iter().position(|b| *b == 0).unwrap();
    let mut changed = plain.clone();
    let words = b"# parentFileNameHint=\"vmdk-\"\n";
    changed.copy_within(at..end, at + words.len());
    changed[at..at + words.len()].copy_from_slice(words);
    // Not this file itself: QEMU would look for what it lies over without end.
    let over = home.path().join("over.vmdk");
    std::fs::write(&over, changed).unwrap();
    assert_eq!(info(&over, "vmdk").unwrap()["backing-filename"], "vmdk-");
    assert!(judge(&over, "vmdk").unwrap_err().contains("names a parent file"));
}

/// What is changed: made once.
fn seeds() -> &'static [(&'static str, Vec<u8>)] {
    static SEEDS: OnceLock<Vec<(&str, Vec<u8>)>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let home = tempfile::tempdir().unwrap();
        let made = |(format, options)| (format, std::fs::read(disk(home.path(), format, options)).unwrap());
        [("qcow2", ""), ("qcow2", "compat=0.10"), ("vmdk", ""), ("vmdk", "subformat=streamOptimized")].map(made).to_vec()
    })
}

fn accepted_stands_alone(format: &str, file: &Path) {
    if judge(file, format).is_err() {
        return;
    }
    // What QEMU does not open does no harm either.
    let Some(info) = info(file, qemu_name(format)) else { return };
    let data = &info["format-specific"]["data"];
    assert!(info.get("backing-filename").is_none() && info.get("full-backing-filename").is_none(), "{info}");
    assert!(data.get("data-file").is_none(), "{info}");
    let extents = data["extents"].as_array().into_iter().flatten();
    assert!(extents.into_iter().all(|extent| extent["filename"].as_str() == file.to_str()), "{info}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Headers with changes: whatever is accepted, QEMU finds no other file in it.
    #[test]
    fn qemu_finds_no_other_file_in_what_is_accepted(
        kind in 0usize..4,
        changes in prop::collection::vec((0usize..1200, any::<u8>()), 0..6),
        words in prop::collection::vec((500usize..2600, prop::sample::select(vec![
            "parentFileNameHint=\"source.raw\"", "\nRW 8 FLAT \"source.raw\" 0\n", "createType=\"monolithicFlat\"", "parentCID=11111111", "\0", "\n",
        ])), 0..3),
        header in prop::option::of((prop::sample::select(vec![4usize, 8, 12, 16, 20, 28, 36, 56, 72, 79, 100]), any::<u8>())),
    ) {
        let home = tempfile::tempdir().unwrap();
        let (format, bytes) = &seeds()[kind];
        let (file, mut bytes) = (home.path().join("changed"), bytes.clone());
        let last = bytes.len() - 1024;
        for (at, word) in words {
            bytes[at..at + word.len()].copy_from_slice(word.as_bytes());
        }
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        if let Some((at, byte)) = header {
            bytes[at] = byte;
            // The footer says the same, or the two differ, half of the time each.
            if kind == 3 && byte % 2 == 0 {
                bytes[last + at] = byte;
            }
        }
        std::fs::write(&file, bytes).unwrap();
        accepted_stands_alone(format, &file);
    }
}
