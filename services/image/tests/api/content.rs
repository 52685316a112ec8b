//! Content in and out.

use axum::body::Body;
use bytes::Bytes;
use serde_json::json;
use sha2::Digest;
use tokio_stream::StreamExt;

use crate::world::{World, context};

fn hex<D: Digest>(data: &[u8]) -> String {
    D::digest(data).iter().map(|b| format!("{b:02x}")).collect()
}

pub async fn an_image_goes_in_and_comes_out(world: World) {
    let id =
        world.image("alice", json!({"name": "i", "disk_format": "raw", "container_format": "bare", "min_disk": 1, "os_distro": "x"})).await;
    assert_eq!(world.show("alice", &id).await["status"], "queued");
    world.get("alice", &format!("/v2/images/{id}/file")).await.is(204);
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    world.upload("alice", &id, content.clone()).await.is(204);
    let shown = world.show("alice", &id).await;
    assert_eq!(shown["status"], "active");
    assert_eq!(shown["size"], 3_000_000);
    assert_eq!(shown["virtual_size"], 3_000_000);
    assert_eq!(shown["checksum"], hex::<md5::Md5>(&content));
    assert_eq!(shown["os_hash_algo"], "sha512");
    assert_eq!(shown["os_hash_value"], hex::<sha2::Sha512>(&content));
    let sha256 = hex::<sha2::Sha256>(&content);
    assert_eq!(world.files(), std::slice::from_ref(&sha256));
    let back = world.get("alice", &format!("/v2/images/{id}/file")).await.is(200);
    assert_eq!(back.header("content-length"), "3000000");
    assert_eq!(back.header("content-md5"), hex::<md5::Md5>(&content));
    assert!(back.bytes == content);
    let boot = world.images.boot_image(&context("alice").unwrap(), &id).await.unwrap();
    assert_eq!((boot.sha256.as_str(), boot.min_disk_gib, boot.properties["os_distro"].as_str()), (sha256.as_str(), 1, "x"));
    assert!(world.images.boot_image(&context("bob").unwrap(), &id).await.is_err());
    // A second upload, and one by someone who only sees nothing.
    world.upload("alice", &id, content.clone()).await.is(409);
    world.upload("bob", &id, content).await.is(404);
}

pub async fn ranges(world: World) {
    let id = world.active("alice", json!({"name": "i"}), b"0123456789").await;
    let path = format!("/v2/images/{id}/file");
    let part = world.send("alice", "GET", &path, &[("range", "bytes=2-4")], Body::empty()).await.is(206);
    assert_eq!((part.text().as_str(), part.header("content-range"), part.header("content-length")), ("234", "bytes 2-4/10", "3"));
    let part = world.send("alice", "GET", &path, &[("range", "bytes=-3")], Body::empty()).await.is(206);
    assert_eq!(part.text(), "789");
    world.send("alice", "GET", &path, &[("range", "bytes=10-")], Body::empty()).await.is(416);
    world.send("alice", "GET", &path, &[("range", "bytes=1-2,4-5")], Body::empty()).await.is(400);
}

pub async fn equal_content_is_kept_once_and_as_long_as_anyone_has_it(world: World) {
    let first = world.active("alice", json!({"name": "1"}), b"same").await;
    let second = world.active("bob", json!({"name": "2"}), b"same").await;
    assert_eq!(world.files().len(), 1);
    world.delete("alice", &format!("/v2/images/{first}")).await.is(204);
    assert_eq!(world.files().len(), 1);
    assert_eq!(world.get("bob", &format!("/v2/images/{second}/file")).await.is(200).text(), "same");
    world.delete("bob", &format!("/v2/images/{second}")).await.is(204);
    assert!(world.files().is_empty());
}

#[tokio::test]
async fn what_is_refused_leaves_the_image_queued_and_nothing_on_disk() {
    let world = World::with(|c| c.set("image.max_bytes", "1000")).await;
    let id = world.image("alice", json!({"disk_format": "qcow2", "container_format": "bare"})).await;
    let queued = async |why: &str| {
        let shown = world.show("alice", &id).await;
        assert_eq!((shown["status"].as_str().unwrap(), shown["size"].is_null()), ("queued", true), "{why}");
        assert!(world.files().is_empty(), "{why}");
    };
    let answer = world.upload("alice", &id, "no qcow2 at all").await.is(415);
    assert!(answer.text().contains("disk_format is qcow2, but the content is raw"), "{}", answer.text());
    queued("mismatch").await;
    world.upload("alice", &id, vec![0u8; 1001]).await.is(413);
    queued("too large").await;
    let path = format!("/v2/images/{id}/file");
    let octets = ("content-type", "application/octet-stream");
    world.send("alice", "PUT", &path, &[octets, ("x-openstack-image-size", "5")], Body::from("four")).await.is(400);
    queued("not the size announced").await;
    world.send("alice", "PUT", &path, &[octets, ("x-openstack-image-size", "2000")], Body::from("four")).await.is(413);
    world.send("alice", "PUT", &path, &[octets, ("x-openstack-image-size", "-1")], Body::from("four")).await.is(400);
    world.send("alice", "PUT", &path, &[("content-type", "application/json")], Body::from("four")).await.is(415);
    world.send("alice", "PUT", &path, &[], Body::from("four")).await.is(415);
    queued("headers").await;
    let broken = tokio_stream::iter([Ok(Bytes::from("QFI")), Err(std::io::Error::other("gone"))]);
    world.upload("alice", &id, Body::from_stream(broken)).await.is(400);
    queued("cut off").await;
    let bare = world.image("alice", json!({"name": "no formats"})).await;
    let answer = world.upload("alice", &bare, "x").await.is(400);
    assert!(answer.text().contains("disk_format, container_format must be set"), "{}", answer.text());
}

#[tokio::test]
async fn content_may_be_something_else_where_the_operator_allows_it_but_not_dangerous() {
    let world = World::with(|c| c.set("image.require_format_match", "false")).await;
    let id = world.image("alice", json!({"disk_format": "qcow2", "container_format": "bare"})).await;
    world.upload("alice", &id, "no qcow2 at all").await.is(204);
    let shown = world.show("alice", &id).await;
    assert_eq!((shown["size"].as_u64(), shown["virtual_size"].is_null()), (Some(15), true));
    // A qcow2 disk of version 3 that stands on /etc/passwd.
    let mut backed = vec![0u8; 1 << 17];
    backed[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    (backed[14], backed[15], backed[19]) = (2, 0, 11);
    backed[512..523].copy_from_slice(b"/etc/passwd");
    let id = world.image("alice", json!({"disk_format": "qcow2", "container_format": "bare"})).await;
    world.upload("alice", &id, backed).await.is(415);
    assert_eq!(world.show("alice", &id).await["status"], "queued");
}

/// The most memory this process has ever had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn large_content_streams_through_little_memory() {
    const PIECE: usize = 64 << 10;
    const PIECES: usize = 1024;
    let world = World::new().await;
    let id = world.active("alice", json!({"name": "warm"}), &[1; PIECE]).await;
    world.delete("alice", &format!("/v2/images/{id}")).await.is(204);
    let id = world.image("alice", json!({"disk_format": "raw", "container_format": "bare"})).await;
    let before = peak();
    // Made as it is sent, counted as it is received: nobody but the service could hold it.
    let body = tokio_stream::iter(0..PIECES).map(|n| Ok::<_, std::io::Error>(Bytes::from(vec![n as u8; PIECE])));
    world.upload("alice", &id, Body::from_stream(body)).await.is(204);
    assert_eq!(world.show("alice", &id).await["size"], PIECE * PIECES);
    let answer = world.raw("alice", &format!("/v2/images/{id}/file")).await;
    let mut stream = answer.into_body().into_data_stream();
    let mut read = 0;
    while let Some(part) = stream.next().await {
        let part = part.unwrap();
        assert!(part.iter().enumerate().all(|(i, byte)| *byte == ((read + i) / PIECE) as u8));
        read += part.len();
    }
    assert_eq!(read, PIECE * PIECES);
    let grown = peak() - before;
    assert!(grown < 16 << 10, "{grown} KiB more for an image of {} KiB", (PIECE * PIECES) >> 10);
}

/// What `qemu-img` makes is known, sized, and refused where it refers to other files.
#[tokio::test]
async fn real_images_of_every_kind() {
    let world = World::new().await;
    let dir = world.dir.path().join("made");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("base.raw"), [0; 65536]).unwrap();
    for (declared, format, options, more, status) in [
        ("qcow2", "qcow2", "", &[][..], 204),
        ("qcow2", "qcow2", "compat=0.10", &[], 204),
        ("qcow2", "qcow2", "compression_type=zlib,lazy_refcounts=on,cluster_size=2M", &[], 204),
        ("qcow2", "qcow2", "extended_l2=on", &[], 204),
        ("qcow2", "qcow2", "cluster_size=512", &[], 204),
        ("qcow2", "qcow2", "data_file=data.raw", &[], 415),
        ("qcow2", "qcow2", "", &["-b", "base.raw", "-F", "raw"], 415),
        ("raw", "qcow2", "", &["-b", "base.raw", "-F", "raw"], 415),
        ("raw", "qcow2", "", &[], 204),
        ("qcow2", "raw", "", &[], 415),
        ("raw", "raw", "", &[], 204),
        ("vmdk", "vmdk", "subformat=monolithicSparse", &[], 204),
        ("vmdk", "vmdk", "subformat=streamOptimized", &[], 204),
        ("vmdk", "vmdk", "subformat=monolithicFlat", &[], 415),
        ("vmdk", "vmdk", "subformat=monolithicSparse", &["-b", "base.vmdk", "-F", "vmdk"], 415),
        ("vhd", "vpc", "subformat=dynamic,force_size=on", &[], 204),
        ("vhd", "vpc", "subformat=fixed,force_size=on", &[], 204),
        ("vhdx", "vhdx", "subformat=dynamic", &[], 204),
        ("vdi", "vdi", "", &[], 204),
        ("qcow2", "qed", "", &[], 415),
        ("raw", "qed", "", &[], 415),
    ] {
        let what = format!("{format} {options} {more:?} declared as {declared}");
        if more.contains(&"base.vmdk") {
            make(&dir, &["create", "-q", "-f", "vmdk", "base.vmdk", "8M"]);
        }
        let mut arguments = vec!["create", "-q", "-f", format];
        if !options.is_empty() {
            arguments.extend(["-o", options]);
        }
        arguments.extend(more);
        arguments.extend(["image", "8M"]);
        make(&dir, &arguments);
        let id = world.image("alice", json!({"disk_format": declared, "container_format": "bare"})).await;
        let bytes = std::fs::read(dir.join("image")).unwrap();
        let length = bytes.len();
        let answer = world.upload("alice", &id, bytes).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        if status == 204 {
            let wanted = if declared == "raw" { length } else { 8 << 20 };
            assert_eq!(world.show("alice", &id).await["virtual_size"], wanted, "{what}");
        }
        std::fs::remove_file(dir.join("image")).unwrap();
    }
}

fn make(dir: &std::path::Path, arguments: &[&str]) {
    let made = std::process::Command::new("qemu-img").args(arguments).current_dir(dir).output().unwrap();
    assert!(made.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&made.stderr));
}
