//! What is done to imported content: decompression, conversion, properties.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use serde_json::{Value, json};

use crate::world::World;

pub fn bare(format: &str) -> Value {
    json!({"disk_format": format, "container_format": "bare"})
}

async fn world(settings: &[(&'static str, &str)]) -> World {
    let world = World::with(|config| settings.iter().for_each(|(key, value)| config.set(key, value))).await;
    world.core.tasks.start().await.unwrap();
    world
}

/// Imports content; the image afterwards, and what its task says.
async fn imported(world: &World, token: &str, image: Value, content: &[u8]) -> (Value, String) {
    let id = world.image(token, image).await;
    world.stage(token, &id, content.to_vec()).await.is(204);
    world.import(token, &id, json!({"method": {"name": "glance-direct"}})).await.is(202);
    let image = world.imported(token, &id).await;
    let tasks = world.get(token, &format!("/v2/images/{id}/tasks")).await.is(200).json();
    (image, tasks["tasks"][0]["message"].as_str().unwrap().to_string())
}

async fn content(world: &World, image: &Value) -> Vec<u8> {
    world.get("alice", &format!("/v2/images/{}/file", image["id"].as_str().unwrap())).await.is(200).bytes
}

/// The import fails with `why`, the image is queued as it was, and nothing is left.
async fn refused(world: &World, image: Value, bytes: &[u8], why: &str) {
    let files = world.files();
    let (after, message) = imported(world, "alice", image.clone(), bytes).await;
    assert!(message.contains(why), "{why}: {message}");
    assert_eq!((&after["status"], &after["disk_format"]), (&json!("queued"), &image["disk_format"]), "{why}");
    assert_eq!(world.files(), files, "{why}");
}

pub fn qemu_img(directory: &Path, arguments: &[&str]) {
    let done = Command::new("qemu-img").current_dir(directory).args(arguments).output().expect("qemu-img is needed for this test");
    assert!(done.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// `bytes` as a raw disk, in another format.
pub fn as_format(bytes: &[u8], format: &str) -> Vec<u8> {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("raw"), bytes).unwrap();
    qemu_img(home.path(), &["convert", "-f", "raw", "-O", format, "raw", "made"]);
    std::fs::read(home.path().join("made")).unwrap()
}

pub fn some_disk() -> Vec<u8> {
    (0..1_048_576u32).map(|n| if n < 300_000 { (n % 251) as u8 } else { 0 }).collect()
}

#[tokio::test]
async fn imported_disks_are_converted() {
    let world = world(&[("image.import_plugins", "image_conversion")]).await;
    let disk = some_disk();
    for (ours, qemu) in [("qcow2", "qcow2"), ("vmdk", "vmdk"), ("vdi", "vdi"), ("vhdx", "vhdx"), ("vhd", "vpc"), ("raw", "raw")] {
        let (image, message) = imported(&world, "alice", bare(ours), &as_format(&disk, qemu)).await;
        assert_eq!((&image["status"], &image["disk_format"]), (&json!("active"), &json!("raw")), "{ours}: {message}");
        let converted = content(&world, &image).await;
        // VHD counts in cylinders.
        assert!(converted.starts_with(&disk) && converted[disk.len()..].iter().all(|b| *b == 0), "{ours}");
        assert!(ours == "vhd" || converted.len() == disk.len(), "{ours}: {}", converted.len());
        assert_eq!((&image["size"], &image["virtual_size"]), (&json!(converted.len()), &json!(converted.len())), "{ours}");
    }
    let mut iso = vec![0; 60 << 10];
    iso[0x8000..0x8006].copy_from_slice(b"\x01CD001");
    let (image, _) = imported(&world, "alice", bare("iso"), &iso).await;
    assert_eq!((&image["status"], &image["disk_format"]), (&json!("active"), &json!("iso")));
    // What is in a container is left alone.
    let (image, _) = imported(&world, "alice", json!({"disk_format": "qcow2", "container_format": "ova"}), b"no disk").await;
    assert_eq!((&image["status"], &image["disk_format"]), (&json!("active"), &json!("qcow2")));
    world.core.tasks.stop().await;
}

#[tokio::test]
async fn disks_are_converted_to_other_formats() {
    for format in ["qcow2", "vmdk"] {
        let world = world(&[("image.import_plugins", "image_conversion"), ("image.conversion_format", format)]).await;
        let (image, message) = imported(&world, "alice", bare("raw"), &some_disk()).await;
        assert_eq!(
            (&image["status"], &image["disk_format"], &image["virtual_size"]),
            (&json!("active"), &json!(format), &json!(1 << 20)),
            "{message}"
        );
        assert!(image["size"].as_u64().unwrap() < 1 << 20);
        world.core.tasks.stop().await;
    }
}

#[tokio::test]
async fn nothing_dangerous_is_converted() {
    let world = world(&[("image.import_plugins", "image_conversion"), ("image.max_bytes", "16777216")]).await;
    // What could be read by mistake lies where all content does.
    world.active("bob", json!({}), b"secret of bob").await;
    let secret = world.images.directory().join(&world.files()[0]).display().to_string();
    let home = tempfile::tempdir().unwrap();
    let made = |arguments: &[&str]| {
        qemu_img(home.path(), arguments);
        std::fs::read(home.path().join("made")).unwrap()
    };
    let backing = made(&["create", "-q", "-f", "qcow2", "-b", &secret, "-F", "raw", "made", "1M"]);
    refused(&world, bare("qcow2"), &backing, "backing file").await;
    refused(&world, bare("raw"), &backing, "backing file").await;
    let mut data = as_format(&some_disk(), "qcow2");
    data[79] |= 4;
    refused(&world, bare("qcow2"), &data, "external data file").await;
    let vmdk = as_format(&some_disk(), "vmdk");
    let at = vmdk.windows(8).position(|w| w == b"# Extent").unwrap();
    let end = 512 + vmdk[512..].iter().position(|b| *b == 0).unwrap();
    let words = format!("# parentFileNameHint=\"{secret}\"\n");
    let mut parent = vmdk.clone();
    parent.copy_within(at..end, at + words.len());
    parent[at..at + words.len()].copy_from_slice(words.as_bytes());
    refused(&world, bare("vmdk"), &parent, "names a parent").await;
    let flat =
        format!("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 1 FLAT \"{secret}\" 0\n");
    refused(&world, bare("vmdk"), flat.as_bytes(), "bare descriptor").await;
    // One thing declared as another, one within another, one that is two.
    refused(&world, bare("vmdk"), &as_format(&some_disk(), "qcow2"), "disk_format is vmdk, but the content is qcow2").await;
    refused(&world, bare("raw"), &as_format(&some_disk(), "qcow2"), "disk_format is raw, but the content is qcow2").await;
    refused(&world, bare("ami"), b"a kernel", "disk_format is ami, but the content is raw").await;
    refused(&world, bare("qcow2"), &as_format(&as_format(&some_disk(), "vdi"), "qcow2"), "Converted to raw the content looks like vdi")
        .await;
    refused(&world, bare("qcow2"), &as_format(&backing, "qcow2"), "backing file").await;
    let mut both = as_format(&some_disk(), "qcow2");
    both[0x8001..0x8006].copy_from_slice(b"CD001");
    refused(&world, bare("qcow2"), &both, "several formats").await;
    // More than there may be.
    refused(&world, bare("qcow2"), &made(&["create", "-q", "-f", "qcow2", "made", "17M"]), "Converted the image would have").await;
    // Damaged inside, where the inspection does not look.
    let mut broken = as_format(&some_disk(), "qcow2");
    let table = u64::from_be_bytes(broken[40..48].try_into().unwrap()) as usize;
    broken[table..table + 8].copy_from_slice(&(0x8000_0000_dead_0200u64).to_be_bytes());
    refused(&world, bare("qcow2"), &broken, "it is damaged").await;
    world.core.tasks.stop().await;
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// A ZIP archive of files with this content.
fn zip(files: &[&[u8]], method: u16) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for bytes in files {
        let packed = if method == 8 {
            let mut packed = DeflateEncoder::new(Vec::new(), Compression::fast());
            packed.write_all(bytes).unwrap();
            packed.finish().unwrap()
        } else {
            bytes.to_vec()
        };
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        let mut common = Vec::new();
        for number in [20, 0, method, 0, 0] {
            common.extend(u16::to_le_bytes(number));
        }
        for number in [crc.sum(), packed.len() as u32, bytes.len() as u32] {
            common.extend(number.to_le_bytes());
        }
        common.extend([4, 0, 0, 0]);
        let header = archive.len() as u32;
        archive.extend(b"PK\x03\x04");
        archive.extend(&common);
        archive.extend(b"disk");
        archive.extend(packed);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(header.to_le_bytes());
        directory.extend(b"disk");
    }
    let at = archive.len() as u32;
    archive.extend(&directory);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend((files.len() as u16).to_le_bytes());
    archive.extend((files.len() as u16).to_le_bytes());
    archive.extend((directory.len() as u32).to_le_bytes());
    archive.extend(at.to_le_bytes());
    archive.extend([7, 0]);
    archive.extend(b"comment");
    archive
}

#[tokio::test]
async fn compressed_content_is_decompressed() {
    let world = world(&[("image.import_plugins", "image_decompression"), ("image.max_bytes", "2000000")]).await;
    let disk = some_disk();
    let twice = [gzip(&disk[..1000]), gzip(&disk[1000..])].concat();
    for (name, packed) in [
        ("gzip", gzip(&disk)),
        ("gzip in parts", twice),
        ("deflated", zip(&[&disk], 8)),
        ("stored", zip(&[&disk], 0)),
        ("plain", disk.clone()),
    ] {
        let (image, message) = imported(&world, "alice", bare("raw"), &packed).await;
        assert_eq!((&image["status"], &image["size"]), (&json!("active"), &json!(disk.len())), "{name}: {message}");
        assert!(content(&world, &image).await == disk, "{name}");
    }
    // What was within is inspected as if it had come so.
    refused(&world, bare("qcow2"), &gzip(b"no qcow2"), "disk_format is qcow2").await;
    let same = gzip(&disk);
    let (image, _) = imported(&world, "alice", json!({"disk_format": "raw", "container_format": "compressed"}), &same).await;
    assert!(content(&world, &image).await == same);
    refused(&world, bare("raw"), &zip(&[&disk, b"second"], 8), "more than one file").await;
    refused(&world, bare("raw"), &zip(&[&disk], 12), "packed in a way").await;
    refused(&world, bare("raw"), &gzip(&vec![0; 2_000_001]), "too large").await;
    refused(&world, bare("raw"), &zip(&[&vec![0; 2_000_001]], 8), "too large").await;
    refused(&world, bare("raw"), &same[..same.len() - 20], "it is damaged").await;
    let mut wrong = zip(&[&disk], 0);
    wrong[100] ^= 1;
    refused(&world, bare("raw"), &wrong, "it is damaged").await;
    refused(&world, bare("raw"), &zip(&[&disk], 8)[..5000], "no directory").await;
    refused(&world, bare("raw"), b"\x20\x20-lh5-", "LHA").await;
    world.core.tasks.stop().await;
}

#[tokio::test]
async fn decompressed_disks_are_converted() {
    let world = world(&[("image.import_plugins", "image_decompression, image_conversion")]).await;
    let (image, message) = imported(&world, "alice", bare("qcow2"), &gzip(&as_format(&some_disk(), "qcow2"))).await;
    assert_eq!((&image["status"], &image["disk_format"]), (&json!("active"), &json!("raw")), "{message}");
    assert!(content(&world, &image).await == some_disk());
    assert_eq!(world.files().len(), 1);
    world.core.tasks.stop().await;
}

#[tokio::test]
async fn imported_images_get_properties() {
    let settings = [("image.import_plugins", "inject_image_metadata"), ("image.inject_properties", "hw_disk_bus:scsi, note:a:b")];
    let world = world(&settings).await;
    let (image, _) = imported(&world, "alice", bare("raw"), b"x").await;
    assert_eq!((&image["hw_disk_bus"], &image["note"]), (&json!("scsi"), &json!("a:b")));
    let (image, _) = imported(&world, "admin", bare("raw"), b"x").await;
    assert_eq!(image.get("note"), None);
    world.core.tasks.stop().await;
}
