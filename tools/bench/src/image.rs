//! Images: content in and out beside what the disk and the hashes take by themselves, memory with many clients, and lists.
//!
//! The measure is what a user with a shell would need: the file copied by reads and writes of 256 KiB and put on disk, then read
//! for its SHA-256, then read for its SHA-512, one after the other, by the library that the service hashes with. The
//! service computes an MD5 besides, and its client runs on the same processors. All files are in the page cache before.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::{Digest, Sha256, Sha512};

use crate::api::{load, many};
use crate::cloud::Cloud;
use crate::http::Client;
use crate::report::{Report, Want, percentile};

const GIB: u64 = 1 << 30;
/// What each of many clients sends and gets.
const PART: u64 = 32 << 20;
const CLIENTS: usize = 64;
const BLOCK: usize = 256 << 10;
/// Each figure of one client is the middle one of so many.
const ROUNDS: usize = 3;
const IMAGES: usize = 10_000;

pub fn run(cloud: &mut Cloud, report: &mut Report) -> Result<()> {
    let files = cloud.home.join("bench-image");
    fs::create_dir_all(&files)?;
    let (large, small) = (files.join("large"), files.join("small"));
    fill(&large, GIB)?;
    fill(&small, PART)?;
    let measured = streams(cloud, report, &large).and_then(|()| memory(cloud, report, &large, &small));
    fs::remove_dir_all(&files)?;
    measured?;
    lists(cloud, report)
}

/// Bytes that are no disk of any format and that nothing makes smaller.
fn fill(path: &Path, size: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = vec![0; BLOCK];
    for _ in 0..size / BLOCK as u64 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block)?;
    }
    Ok(file.sync_all()?)
}

/// Hands on a file block by block.
fn blocks(path: &Path, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut file = File::open(path)?;
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(()),
            n => each(&block[..n])?,
        }
    }
}

/// A copy that is on disk, then two hashes: how long the copy and the whole take.
fn by_hand(from: &Path, to: &Path) -> Result<(Duration, Duration)> {
    nix::unistd::sync();
    let began = Instant::now();
    let mut copy = File::create(to)?;
    blocks(from, |block| Ok(copy.write_all(block)?))?;
    copy.sync_all()?;
    let copied = began.elapsed();
    let mut sha256 = Sha256::new();
    blocks(to, |block| {
        sha256.update(block);
        Ok(())
    })?;
    let mut sha512 = Sha512::new();
    blocks(to, |block| {
        sha512.update(block);
        Ok(())
    })?;
    // Computed for somebody.
    std::hint::black_box((sha256.finalize(), sha512.finalize()));
    let all = began.elapsed();
    fs::remove_file(to)?;
    Ok((copied, all))
}

fn made(cloud: &Cloud, client: &mut Client, name: &str) -> Result<String> {
    let body = json!({"name": name, "disk_format": "raw", "container_format": "bare"});
    let image = client.post(&cloud.path("image", "/v2/images")?, &body)?.expect(201)?;
    Ok(image["id"].as_str().context("an image without an id")?.to_string())
}

fn content(cloud: &Cloud, id: &str) -> Result<String> {
    cloud.path("image", &format!("/v2/images/{id}/file"))
}

fn removed(cloud: &Cloud, client: &mut Client, id: &str) -> Result<()> {
    client.delete(&cloud.path("image", &format!("/v2/images/{id}"))?)?.expect(204).map(|_| ())
}

/// Time, and CPU time of `sturnus`.
fn timed(cloud: &Cloud, work: impl FnOnce() -> Result<()>) -> Result<(Duration, Duration)> {
    nix::unistd::sync();
    let (cpu, began) = (cloud.cpu()?, Instant::now());
    work()?;
    Ok((began.elapsed(), cloud.cpu()? - cpu))
}

/// 1 GiB each way by one client, which writes what it gets to a file and puts that on disk.
fn streams(cloud: &Cloud, report: &mut Report, file: &Path) -> Result<()> {
    let copy: PathBuf = file.with_extension("copy");
    let (mut copies, mut hands, mut ups, mut downs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut cpu_up, mut cpu_down) = (Duration::ZERO, Duration::ZERO);
    let mut client = cloud.client();
    for round in 0..ROUNDS {
        let (copied, all) = by_hand(file, &copy)?;
        copies.push(copied);
        hands.push(all);
        let id = made(cloud, &mut client, &format!("bench-{round}"))?;
        let path = content(cloud, &id)?;
        let (time, cpu) = timed(cloud, || client.upload(&path, file)?.expect(204).map(|_| ()))?;
        ups.push(time);
        cpu_up += cpu;
        let (time, cpu) = timed(cloud, || {
            let mut into = File::create(&copy)?;
            if client.download(&path, &mut into)? != GIB {
                bail!("a download that is not whole");
            }
            Ok(into.sync_all()?)
        })?;
        downs.push(time);
        cpu_down += cpu;
        fs::remove_file(&copy)?;
        removed(cloud, &mut client, &id)?;
    }
    let each = |cpu: Duration| Some(cpu.as_secs_f64() * 1000.0 / ROUNDS as f64);
    let by_hand = percentile(&mut hands, 0.5);
    report.add("copy of 1 GiB put on disk, p50", percentile(&mut copies, 0.5), "ms", Want::Any, None);
    report.add("the same and a SHA-256 and a SHA-512 pass, p50", by_hand, "ms", Want::Any, None);
    for (name, mut times, cpu) in [("upload", ups, cpu_up), ("download", downs, cpu_down)] {
        let time = percentile(&mut times, 0.5);
        report.add(&format!("{name} of 1 GiB, p50"), time, "ms", Want::Any, each(cpu));
        report.add(&format!("{name} of 1 GiB, part of copy and passes"), time / by_hand * 100.0, "%", Want::Below(120.0), None);
    }
    Ok(())
}

/// The most memory (PSS, in MiB) that the cloud has while something is done.
fn peak(cloud: &Cloud, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| -> Result<f64> {
            let mut most: f64 = 0.0;
            while !ended.load(Ordering::Relaxed) {
                most = most.max(cloud.pss()?);
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(most)
        });
        let worked = work();
        ended.store(true, Ordering::Relaxed);
        let most = watch.join().unwrap_or_else(|_| bail!("the watch of memory panicked"));
        worked.and(most)
    })
}

/// Each with a connection of its own, all at once.
fn at_once(cloud: &Cloud, one: impl Fn(&mut Client, usize) -> Result<()> + Sync) -> Result<()> {
    let one = &one;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || one(&mut cloud.client(), n))).collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|_| bail!("a client panicked")))
    })
}

fn memory(cloud: &Cloud, report: &mut Report, large: &Path, small: &Path) -> Result<()> {
    let mut client = cloud.client();
    let ids: Vec<String> = (0..=CLIENTS).map(|n| made(cloud, &mut client, &format!("bench-{n}"))).collect::<Result<_>>()?;
    let (alone, ids) = ids.split_first().context("no images")?;
    let path = content(cloud, alone)?;
    let one_up = peak(cloud, || client.upload(&path, large)?.expect(204).map(|_| ()))?;
    let all_up = peak(cloud, || at_once(cloud, |client, n| client.upload(&content(cloud, &ids[n])?, small)?.expect(204).map(|_| ())))?;
    let one_down = peak(cloud, || client.download(&path, &mut std::io::sink()).map(|_| ()))?;
    let all_down = peak(cloud, || {
        at_once(cloud, |client, n| match client.download(&content(cloud, &ids[n])?, &mut std::io::sink())? {
            PART => Ok(()),
            other => bail!("a download of {other} bytes"),
        })
    })?;
    for (what, one, all) in [("uploading", one_up, all_up), ("downloading", one_down, all_down)] {
        report.add(&format!("most memory (PSS) while 1 client is {what} 1 GiB"), one, "MiB", Want::Any, None);
        // A MiB for each: whatever the size.
        let most = one + CLIENTS as f64;
        report.add(&format!("most memory (PSS) while 64 clients are {what} 32 MiB"), all, "MiB", Want::Below(most), None);
    }
    ids.iter().chain([alone]).try_for_each(|id| removed(cloud, &mut client, id))
}

/// Pages all over a list, each after the image that ends the one before it.
fn lists(cloud: &Cloud, report: &mut Report) -> Result<()> {
    let images = cloud.path("image", "/v2/images")?;
    let ids = std::sync::Mutex::new(Vec::new());
    many(cloud, IMAGES, |client, n| {
        let id = made(cloud, client, &format!("bench-{n}"))?;
        ids.lock().unwrap_or_else(|e| e.into_inner()).push(id);
        Ok(())
    })?;
    let ids = ids.into_inner().unwrap_or_else(|e| e.into_inner());
    for limit in [25, 100, 1000] {
        let mut client = cloud.client();
        let mut markers = vec![String::new()];
        // One whole walk says where pages begin.
        while let Some(marker) = markers.last() {
            let page = client.get(&format!("{images}?limit={limit}{marker}"))?.expect(200)?;
            let last = page["images"].as_array().and_then(|page| page.last()).and_then(|image| image["id"].as_str());
            match (page.get("next"), last) {
                (Some(_), Some(id)) => markers.push(format!("&marker={id}")),
                _ => break,
            }
        }
        if markers.len() < IMAGES / limit {
            bail!("{} pages of {limit}", markers.len());
        }
        let next = AtomicUsize::new(0);
        // Reading the body's JSON is the client's affair.
        let get = |client: &mut Client| {
            let marker = &markers[next.fetch_add(1, Ordering::Relaxed) % markers.len()];
            match client.get(&format!("{images}?limit={limit}{marker}"))?.status {
                200 => Ok(()),
                status => bail!("a page of images was answered with {status}"),
            }
        };
        let (mut samples, cpu) = load(cloud, 1, Duration::from_secs(3), get)?;
        report.add(&format!("GET {limit} of 10,000 images, p50"), percentile(&mut samples, 0.5), "ms", Want::Below(10.0), Some(cpu));
        report.add(&format!("GET {limit} of 10,000 images, p99"), percentile(&mut samples, 0.99), "ms", Want::Any, None);
    }
    many(cloud, ids.len(), |client, n| removed(cloud, client, &ids[n]))
}
