//! Content in a pool of Ceph: for each image an RBD image of its id, with the protected snapshot `snap` of which clones can be made. So
//! does glance, and what knows glance's pool finds its way here.
//!
//! Ceph's own program `rbd` does the work, from file to file. What has not become whole has a name by which it is known, and goes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base::{Error, Result, error::Internal};

use crate::content::{Facts, Listing, disk, verify};

/// The name of each image's snapshot.
const SNAPSHOT: &str = "snap";
/// Of images on their way; what follows is the id of the upload or of the import's task.
const TEMPORARY: &str = "sturnus-upload-";
/// MiB of the objects that an image consists of, unless the address says otherwise.
const CHUNK: u64 = 8;
/// How long the cluster may take for one step, in seconds: without it a cluster that is gone would be waited for without end.
const PATIENCE: [&str; 3] = ["--client_mount_timeout=30", "--rados_mon_op_timeout=30", "--rados_osd_op_timeout=60"];
/// How many chunks are on their way at once.
const AT_ONCE: &str = "--rbd_concurrent_management_ops=4";
/// Chunks that have been written are given back to the system, in bytes from which on: by itself the allocator keeps them, and the program
/// would grow with the image.
const ALLOCATION: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "131072");

/// Numbers of errors, by which the program ends.
const NOT_FOUND: i32 = 2;
const BUSY: i32 = 16;
const INVALID: i32 = 22;
const FULL: [i32; 2] = [28, 122];
const NOT_EMPTY: i32 = 39;

/// A pool of a cluster, and as whom it is used.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Ceph's configuration, which names the cluster's monitors and where the user's key is.
    conf: PathBuf,
    /// Of the cluster.
    fsid: String,
    pool: String,
    /// Empty: Ceph's default, `admin`.
    user: String,
    /// MiB.
    chunk: u64,
}

/// How a run of the program has ended that did not end well.
struct Failed {
    code: i32,
    said: String,
}

impl Pool {
    /// `text` is the file of the configuration, with `?pool=NAME` where that is not `images`, `user=NAME` and `chunk=MIB`.
    pub fn of(text: &str) -> std::result::Result<Pool, String> {
        let (conf, query) = text.split_once('?').unwrap_or((text, ""));
        if !Path::new(conf).is_absolute() {
            return Err("does not name Ceph's configuration in full".into());
        }
        let mut pool = Pool { conf: conf.into(), fsid: String::new(), pool: "images".into(), user: String::new(), chunk: CHUNK };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("pool", name) if is_name(name) => pool.pool = name.into(),
                ("user", name) if is_name(name) => pool.user = name.into(),
                ("chunk", mib) => {
                    let mib = mib.parse().ok().filter(|mib: &u64| mib.is_power_of_two() && *mib <= 32);
                    pool.chunk = mib.ok_or("has chunks that are not of 1, 2, 4, 8, 16 or 32 MiB")?;
                }
                _ => return Err(format!("says `{pair}`, which is none of pool, user, chunk with a good value")),
            }
        }
        let configuration = std::fs::read_to_string(conf).map_err(|error| format!("has no configuration of Ceph: {conf}: {error}"))?;
        pool.fsid = fsid_of(&configuration).ok_or_else(|| format!("has a configuration of Ceph without fsid: {conf}"))?;
        Ok(pool)
    }

    /// What makes another pool of it.
    pub fn is(&self, other: &Pool) -> bool {
        (&self.fsid, &self.pool) == (&other.fsid, &other.pool)
    }
    pub fn fsid(&self) -> &str {
        &self.fsid
    }
    pub fn name(&self) -> &str {
        &self.pool
    }
    /// Bytes of the objects that an image consists of.
    pub fn chunk(&self) -> u64 {
        self.chunk << 20
    }

    /// The address of an image's content.
    pub fn url(&self, image: &str) -> String {
        format!("rbd://{}/{}/{image}/{SNAPSHOT}", self.fsid, self.pool)
    }

    fn spec(&self, name: &str) -> String {
        format!("{}/{name}", self.pool)
    }

    /// Runs the program; what it has printed. Blocks.
    fn run(&self, args: &[&str]) -> Result<std::result::Result<Vec<u8>, Failed>> {
        let mut command = Command::new("rbd");
        // What is set for other commands of Ceph is not meant for this one.
        command.env_remove("CEPH_ARGS").env_remove("CEPH_CONF").env(ALLOCATION.0, ALLOCATION.1);
        command.arg("--conf").arg(&self.conf).args(PATIENCE).arg(AT_ONCE);
        if !self.user.is_empty() {
            command.args(["--id", &self.user]);
        }
        let missing = |error: std::io::Error| Error::unavailable("The program rbd of Ceph cannot be run.").caused_by(error);
        let done = command.args(args).stdin(Stdio::null()).output().map_err(missing)?;
        if done.status.success() {
            return Ok(Ok(done.stdout));
        }
        let said = String::from_utf8_lossy(&done.stderr);
        let said = said.lines().filter(|line| line.starts_with("rbd:")).collect::<Vec<_>>().join("; ");
        Ok(Err(Failed { code: done.status.code().unwrap_or(-1), said }))
    }

    /// Runs the program where its failure is ours.
    fn must(&self, args: &[&str]) -> Result<Vec<u8>> {
        self.run(args)?.map_err(|failed| self.failure(args, &failed))
    }

    /// Runs the program where these failures mean that there is nothing to do; whether there was.
    fn may(&self, args: &[&str], fine: &[i32]) -> Result<bool> {
        match self.run(args)? {
            Ok(_) => Ok(true),
            Err(failed) if fine.contains(&failed.code) => Ok(false),
            Err(failed) => Err(self.failure(args, &failed)),
        }
    }

    fn failure(&self, args: &[&str], failed: &Failed) -> Error {
        if FULL.contains(&failed.code) {
            return disk(std::io::Error::from_raw_os_error(FULL[0]));
        }
        let verb = args.iter().find(|arg| !arg.starts_with('-')).copied().unwrap_or_default();
        tracing::info!(pool = self.pool, code = failed.code, "rbd {}: {}", args.join(" "), failed.said);
        Error::unavailable(format!("Ceph's pool {} refuses: {verb} ends with {}.", self.pool, failed.code))
    }

    /// Keeps the content of a file as the image's, in place of any that is there. Twice is as once. `upload` is the id of what brings it.
    pub fn put(&self, file: &Path, facts: &Facts, image: &str, upload: &str) -> Result<()> {
        // What an attempt before a crash has left.
        self.remove_upload(upload)?;
        let put = self.put_as(file, facts, &self.spec(&format!("{TEMPORARY}{upload}")), image);
        if put.is_err()
            && let Err(error) = self.remove_upload(upload)
        {
            tracing::warn!(upload, "half an image stays in Ceph for now: {}", error.chain());
        }
        put
    }

    fn put_as(&self, file: &Path, facts: &Facts, temporary: &str, image: &str) -> Result<()> {
        let chunk = format!("{}M", self.chunk);
        if facts.size == 0 {
            // Of an empty file the program cannot tell the size.
            self.must(&["create", "--size", "0B", "--object-size", &chunk, temporary])?;
        } else {
            let path = file.to_str().ok_or_else(|| Error::internal("a content file whose name is no text"))?;
            self.must(&["import", "--no-progress", "--object-size", &chunk, path, temporary])?;
        }
        let snapshot = format!("{temporary}@{SNAPSHOT}");
        self.must(&["snap", "create", "--no-progress", &snapshot])?;
        self.must(&["snap", "protect", &snapshot])?;
        self.remove(image)?;
        // From now on it is whole, or not there.
        self.must(&["rename", temporary, &self.spec(image)]).map(drop)
    }

    pub fn has(&self, image: &str) -> Result<bool> {
        self.may(&["info", &self.spec(image)], &[NOT_FOUND])
    }

    /// Writes an image's content into a new file, where it is verified; false when there is none.
    pub fn get(&self, image: &str, sha256: &str, to: &Path) -> Result<bool> {
        let path = to.to_str().ok_or_else(|| Error::internal("a content file whose name is no text"))?;
        let source = format!("{}@{SNAPSHOT}", self.spec(image));
        if !self.may(&["export", "--no-progress", &source, path], &[NOT_FOUND])? {
            return Ok(false);
        }
        let mut file = File::open(to).internal("opening image content")?;
        if !verify(&mut file, sha256)? {
            return Err(Error::internal(format!("{} is damaged: it is not what the image's record says", self.url(image))));
        }
        file.sync_all().map_err(disk)?;
        Ok(true)
    }

    /// Removes an image; that there was none is fine. One of which there are clones stays until they are gone.
    pub fn remove(&self, image: &str) -> Result<()> {
        self.remove_named(&self.spec(image))
    }

    pub fn remove_upload(&self, upload: &str) -> Result<()> {
        self.remove_named(&self.spec(&format!("{TEMPORARY}{upload}")))
    }

    fn remove_named(&self, spec: &str) -> Result<()> {
        let snapshot = format!("{spec}@{SNAPSHOT}");
        let steps: [(&[&str], &[i32]); 3] = [
            // Of a snapshot that is not protected it says that the argument is invalid.
            (&["snap", "unprotect", &snapshot], &[NOT_FOUND, INVALID]),
            (&["snap", "rm", "--no-progress", &snapshot], &[NOT_FOUND]),
            (&["rm", "--no-progress", spec], &[NOT_FOUND]),
        ];
        for (args, fine) in steps {
            match self.run(args)? {
                Err(failed) if fine.contains(&failed.code) => {}
                Err(failed) if matches!(failed.code, BUSY | NOT_EMPTY) => {
                    tracing::info!(image = spec, "in use in Ceph, it is removed later: {}", failed.said);
                    return Ok(());
                }
                done => drop(done.map_err(|failed| self.failure(args, &failed))?),
            }
        }
        Ok(())
    }

    /// What is there; names that are not ours are left out.
    pub fn list(&self) -> Result<Listing> {
        let names: Vec<String> =
            serde_json::from_slice(&self.must(&["ls", "--format", "json", &self.pool])?).internal("reading names of images in Ceph")?;
        let mut listing = Listing::default();
        for name in names {
            if let Some(upload) = name.strip_prefix(TEMPORARY).filter(|id| base::id::is_uuid(id)) {
                listing.uploads.push(upload.to_string());
            } else if base::id::is_uuid(&name) {
                listing.content.push(name);
            }
        }
        Ok(listing)
    }
}

/// Whether a word may be part of the program's arguments, and of an address.
fn is_name(word: &str) -> bool {
    !word.is_empty() && !word.starts_with('-') && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// The cluster's id in Ceph's configuration. Words of names are parted by blanks, `_` or `-` there; this one has none.
fn fsid_of(configuration: &str) -> Option<String> {
    let values = configuration.lines().filter_map(|line| line.split_once('=')).filter(|(name, _)| name.trim() == "fsid");
    let mut values = values.map(|(_, value)| value.split(['#', ';']).next().unwrap_or_default().trim().to_ascii_lowercase());
    values.find(|value| base::id::is_uuid(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let home = tempfile::tempdir().unwrap();
        let (good, bad) = (home.path().join("good.conf"), home.path().join("bad.conf"));
        let fsid = "6c1fd7f5-2e51-4a53-9d36-a93f0a9ba0b1";
        std::fs::write(&good, format!("# fsid = no\n[global]\n\tfsid = {fsid} ; ours\nmon host = 10.0.0.1\n")).unwrap();
        std::fs::write(&bad, "[global]\nmon host = 10.0.0.1\n").unwrap();
        let pool = Pool::of(good.to_str().unwrap()).unwrap();
        assert_eq!((pool.name(), pool.user.as_str(), pool.chunk()), ("images", "", 8 << 20));
        assert_eq!(pool.url("x"), format!("rbd://{fsid}/images/x/snap"));
        let other = Pool::of(&format!("{}?pool=vm-images&user=glance&chunk=4", good.display())).unwrap();
        assert_eq!((other.name(), other.user.as_str(), other.chunk()), ("vm-images", "glance", 4 << 20));
        assert!(pool.is(&pool) && !pool.is(&other));
        for (query, words) in [
            ("?chunk=3", "MiB"),
            ("?chunk=64", "MiB"),
            ("?pool=", "good value"),
            ("?pool=a/b", "good value"),
            ("?user=--yes", "good value"),
            ("?size=1", "good value"),
        ] {
            let error = Pool::of(&format!("{}{query}", good.display())).unwrap_err();
            assert!(error.contains(words), "{query}: {error}");
        }
        assert!(Pool::of(bad.to_str().unwrap()).unwrap_err().contains("without fsid"));
        assert!(Pool::of("/nowhere/ceph.conf").unwrap_err().contains("no configuration"));
        assert!(Pool::of("ceph.conf").unwrap_err().contains("in full"));
    }
}
