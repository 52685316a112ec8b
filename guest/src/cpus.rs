//! The guest's vCPUs, as its kernel shows them.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// Below `/sys/devices/system/cpu`.
pub struct Cpus(pub PathBuf);

impl Cpus {
    /// Those that are online; none when that cannot be read.
    pub fn online(&self) -> BTreeSet<u32> {
        let text = std::fs::read_to_string(self.0.join("online")).unwrap_or_default();
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.trim().parse::<u32>().ok()?..=last.trim().parse::<u32>().ok()?)
        };
        text.split(',').filter_map(range).flatten().collect()
    }

    /// Takes one offline, or online again. One that is so already is fine.
    pub fn set(&self, cpu: u32, online: bool) -> Result<(), String> {
        let path = self.0.join(format!("cpu{cpu}/online"));
        std::fs::write(&path, if online { "1" } else { "0" }).map_err(|e| format!("{}: {e}", path.display()))
    }
}

/// `set([2, 3])`, and whatever else has numbers between brackets.
pub fn listed(text: &str) -> BTreeSet<u32> {
    let inner = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("", |(inner, _)| inner);
    inner.split(',').filter_map(|part| part.trim().parse().ok()).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A directory that looks like the kernel's with so many; what is online is told by hand.
    pub fn fake(count: u32, online: &str) -> (tempfile::TempDir, Cpus) {
        let root = tempfile::tempdir().unwrap();
        for cpu in 1..count {
            std::fs::create_dir(root.path().join(format!("cpu{cpu}"))).unwrap();
            std::fs::write(root.path().join(format!("cpu{cpu}/online")), "1").unwrap();
        }
        std::fs::write(root.path().join("online"), online).unwrap();
        let cpus = Cpus(root.path().to_path_buf());
        (root, cpus)
    }

    #[test]
    fn reads_and_writes_as_the_kernel_has_it() {
        let (root, cpus) = fake(4, "0-1,3\n");
        assert_eq!(cpus.online(), BTreeSet::from([0, 1, 3]));
        cpus.set(3, false).unwrap();
        assert_eq!(std::fs::read_to_string(root.path().join("cpu3/online")).unwrap(), "0");
        assert!(cpus.set(9, true).unwrap_err().contains("cpu9/online"));
        assert_eq!(Cpus("/nonexistent".into()).online(), BTreeSet::new());
    }

    #[test]
    fn reads_sets_as_metadata_has_them() {
        assert_eq!(listed("set([2, 3])"), BTreeSet::from([2, 3]));
        assert_eq!((listed("set([])"), listed("nothing")), (BTreeSet::new(), BTreeSet::new()));
    }
}
