//! Which accelerator works here, found by running a guest: a `/dev/kvm` that opens proves nothing.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use base::error::Internal;
use base::{Error, Result};
use serde::{Deserialize, Serialize};

use super::boot_id;
use super::process::{Identity, Launch, Watched, launch};
use crate::documents;

pub const QEMU: &str = "qemu-system-x86_64";

/// A boot sector: wait for three ticks of the timer, read a port of the chipset 20,000 times, then write to
/// the exit device. So firmware, interrupts and exits to QEMU have all worked when it ends.
const SECTOR: &[u8] = &[
    0xfb, 0xf4, 0xf4, 0xf4, // sti; hlt; hlt; hlt
    0x66, 0xb9, 0x20, 0x4e, 0x00, 0x00, // mov ecx, 20000
    0xe4, 0x61, 0x66, 0x49, 0x75, 0xfa, // again: in al, 0x61; dec ecx; jnz again
    0xb0, 0x31, 0xe6, 0xf4, // mov al, 0x31; out 0xf4, al
    0xeb, 0xfe, // jmp $
];
/// What QEMU exits with when the guest has written 0x31.
const PROOF: &str = "exited with status 99";
/// A working KVM needs a tenth of this processor time, whatever else the machine does meanwhile; one that
/// is emulated below needs several times as much, and hangs larger guests.
const CPU_SECONDS: u64 = 1;
const DEADLINE: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accelerator {
    /// `kvm` or `tcg`.
    pub name: String,
    /// As OpenStack counts: 7.2.1 is 7002001.
    pub version: u32,
    boot_id: String,
    /// Tells another QEMU from the one that was probed.
    program: String,
}

/// The accelerator of this machine boot, from the last probe or a new one.
pub async fn accelerator(root: &Path, wanted: &str, identity: Option<&Identity>) -> Result<Accelerator> {
    let program = fingerprint()?;
    let path = root.join("accelerator.json");
    let known = documents::read::<Accelerator>(&path).unwrap_or_default();
    if let Some(known) = known
        && known.boot_id == boot_id()
        && known.program == program
        && (wanted == "auto" || known.name == wanted)
    {
        return Ok(known);
    }
    let version = tokio::task::spawn_blocking(version).await.internal("asking QEMU's version broke off")??;
    let name = match wanted {
        "auto" if runs(root, "kvm", identity, Some(CPU_SECONDS)).await? => "kvm",
        "kvm" => "kvm",
        _ => "tcg",
    };
    tracing::info!("guests run under {name} (QEMU {version})");
    let found = Accelerator { name: name.into(), version, boot_id: boot_id(), program };
    let text = serde_json::to_vec(&found).internal("cannot write the probe's result")?;
    documents::replace(&path, &text, false)?;
    Ok(found)
}

/// Path, size and time of the program.
fn fingerprint() -> Result<String> {
    for directory in ["/usr/bin", "/bin"] {
        let path = Path::new(directory).join(QEMU);
        if let Ok(data) = std::fs::metadata(&path) {
            return Ok(format!("{} {} {}", path.display(), data.len(), data.mtime()));
        }
    }
    Err(Error::unavailable(format!("{QEMU} is not installed")))
}

fn version() -> Result<u32> {
    let out = std::process::Command::new(QEMU).arg("--version").output().internal("cannot run QEMU")?;
    let text = String::from_utf8_lossy(&out.stdout);
    let number = text.split_whitespace().find(|w| w.starts_with(|c: char| c.is_ascii_digit())).unwrap_or_default();
    Ok(number.split('.').take(3).fold(0, |all, part| all * 1000 + part.parse::<u32>().unwrap_or_default()))
}

/// Whether guest code runs to its end under this accelerator, as the user that guests run as.
pub async fn runs(root: &Path, accelerator: &str, identity: Option<&Identity>, cpu_seconds: Option<u64>) -> Result<bool> {
    if accelerator == "kvm" && !Path::new("/dev/kvm").exists() {
        return Ok(false);
    }
    let mut sector = SECTOR.to_vec();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    let disk = root.join("probe.img");
    documents::replace(&disk, &sector, false)?;
    // An IDE disk must be writable, and QEMU tries it read-only first.
    let open = |write| OpenOptions::new().read(true).write(write).open(&disk).internal("cannot open the probe guest's disk");
    let (file, readable) = (open(true)?, open(false)?);
    let log = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(root.join("probe.log"))
        .internal("cannot open the probe's log")?;
    let arguments: Vec<String> = [
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-machine",
        "pc",
        "-accel",
        accelerator,
        "-m",
        "16",
        "-add-fd",
        &format!("set=1,fd={}", file.as_raw_fd()),
        "-add-fd",
        &format!("set=1,fd={}", readable.as_raw_fd()),
        "-blockdev",
        r#"{"driver":"raw","node-name":"disk","file":{"driver":"file","filename":"/dev/fdset/1"}}"#,
        "-device",
        "ide-hd,drive=disk,bootindex=0",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=1",
    ]
    .map(String::from)
    .to_vec();
    let what = Launch {
        program: QEMU,
        arguments: &arguments,
        identity,
        descriptors: &[file.as_raw_fd(), readable.as_raw_fd()],
        listeners: &[],
        cgroups: &[],
        log: &log,
        cpu_seconds,
        processors: None,
    };
    let Some(guest) = Watched::with(launch(&what)?)? else { return Ok(false) };
    let outcome = match tokio::time::timeout(DEADLINE, guest.ended()).await {
        Ok(reason) => reason,
        Err(_) => {
            guest.kill().internal("cannot end the probe guest")?;
            guest.ended().await;
            "still running".into()
        }
    };
    tracing::debug!("probe guest under {accelerator}: {outcome}");
    Ok(outcome == PROOF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn vm_a_guest_runs_under_tcg_and_the_result_is_kept() {
        let root = tempfile::tempdir().unwrap();
        assert!(runs(root.path(), "tcg", None, None).await.unwrap());
        let found = accelerator(root.path(), "tcg", None).await.unwrap();
        assert!(found.version > 5_000_000, "{found:?}");
        assert_eq!(accelerator(root.path(), "auto", None).await.unwrap(), found, "not probed again");
    }

    #[tokio::test]
    async fn vm_the_probe_is_what_decides() {
        let root = tempfile::tempdir().unwrap();
        let kvm = runs(root.path(), "kvm", None, Some(CPU_SECONDS)).await.unwrap();
        let found = accelerator(root.path(), "auto", None).await.unwrap();
        println!("kvm works here: {kvm}");
        assert_eq!(found.name, if kvm { "kvm" } else { "tcg" });
    }
}
