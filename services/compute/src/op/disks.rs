//! The files of a guest that is off, brought from its host to another one piece by piece, through the sessions of both.

use base::{Error, Result};
use rpc::instance::{DiskSource, InstanceSpec};
use rpc::message::{DiskFile, Request};
use service::carry::{PIECE, answer};
use task::StepContext;

use crate::Compute;

const FIRMWARE: &str = "firmware.fd";

impl Compute {
    /// Copies what the guest of `spec` has on `from` to `to`, where it is not. Done again it begins anew.
    pub(crate) async fn disks_copy(&self, cx: &StepContext, spec: &InstanceSpec, from: &str, to: &str) -> Result<()> {
        for host in [from, to] {
            if !self.core.hosts.sessions().connected().iter().any(|info| info.id == host && info.moves) {
                return Err(Error::unavailable(format!("Host {host} is not there, or of a release that cannot move servers.")));
            }
        }
        let own = spec.disks.iter().filter(|disk| !matches!(disk.source, DiskSource::Volume { .. }));
        let wanted: Vec<String> = own.clone().map(|disk| format!("{}.qcow2", disk.file())).collect();
        for disk in own {
            if let DiskSource::Image { sha256, format } = &disk.source {
                self.image_bring(cx, &spec.id, from, to, sha256, format).await?;
            }
        }
        let request = Request::DiskFiles { instance_id: spec.id.clone() };
        let files: Vec<DiskFile> = answer(self.core.hosts.ask(from, request).await?)?;
        if let Some(missing) = wanted.iter().find(|name| !files.iter().any(|file| file.name == **name)) {
            return Err(Error::conflict(format!("The disk {missing} is not on the server's host.")));
        }
        let files: Vec<DiskFile> = files.into_iter().filter(|file| wanted.contains(&file.name) || file.name == FIRMWARE).collect();
        let all: u64 = files.iter().map(|file| file.bytes).sum();
        let mut before = 0;
        for file in files {
            self.disk_copy(cx, &spec.id, from, to, &file.name, Some((before, all))).await?;
            before += file.bytes;
        }
        Ok(())
    }

    /// Sees to it that a host has the image below a guest's disk.
    pub(crate) async fn image_bring(&self, cx: &StepContext, id: &str, from: &str, to: &str, sha256: &str, format: &str) -> Result<()> {
        let request = Request::CacheImage { sha256: sha256.to_string(), format: format.to_string() };
        if let Err(error) = self.images.content_bring(cx, sha256).await {
            tracing::info!(sha256, "an image is brought from the guest's host: {}", error.chain());
            return self.disk_copy(cx, id, from, to, &format!("image-{sha256}"), None).await;
        }
        match self.core.hosts.ask(to, request).await {
            Err(error) if error.is_transient() => Err(error),
            // The image is gone since; the guest's host has it yet.
            Err(_) => self.disk_copy(cx, id, from, to, &format!("image-{sha256}"), None).await,
            Ok(_) => Ok(()),
        }
    }

    /// One file. `share`: bytes before it, of how many.
    pub(crate) async fn disk_copy(
        &self,
        cx: &StepContext,
        id: &str,
        from: &str,
        to: &str,
        file: &str,
        share: Option<(u64, u64)>,
    ) -> Result<()> {
        let hosts = &self.core.hosts;
        let read = |offset| Request::DiskRead { instance_id: id.into(), file: file.into(), offset, length: PIECE };
        let write = |offset, piece| Request::DiskWrite { instance_id: id.into(), file: file.into(), offset, piece };
        let go_on = || match cx.cancelled() {
            true => Err(Error::conflict(format!("The operation on server {id} was cancelled."))),
            false => Ok(()),
        };
        let bytes = hosts.carry(cx, (from, to), read, write, go_on, share).await?;
        let request = Request::DiskKeep { instance_id: id.into(), file: file.into(), bytes };
        hosts.ask(to, request).await.map(drop)
    }
}
