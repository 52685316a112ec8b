//! Unified limits: how much of images a project may have, as the identity service keeps it.
//!
//! Usage is counted in the transaction that adds to it, so two requests cannot both have what is left.

use base::{Context, Error, Kind, Result};
use store::{Tx, params};

use crate::Images;

const MIB: u64 = 1 << 20;

/// What a project may have of a resource; none where nobody has said, -1: as much as it likes.
pub type Limits = Box<dyn Fn(&Tx, &str, &str) -> Result<Option<i64>> + Send + Sync>;

/// What is limited, under upstream's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// MiB of content, once for each store that has it.
    SizeTotal,
    /// MiB that wait to be imported or are being copied.
    StageTotal,
    CountTotal,
    /// Images whose content is on its way.
    CountUploading,
}

pub const RESOURCES: [Resource; 4] = [Resource::SizeTotal, Resource::StageTotal, Resource::CountTotal, Resource::CountUploading];

/// An image whose content is being copied to further stores.
const COPYING: &str =
    "EXISTS (SELECT 1 FROM image_property p WHERE p.image_id = image.id AND p.name = 'os_glance_importing_to_stores' AND p.value <> '')";

impl Resource {
    pub fn as_str(self) -> &'static str {
        match self {
            Resource::SizeTotal => "image_size_total",
            Resource::StageTotal => "image_stage_total",
            Resource::CountTotal => "image_count_total",
            Resource::CountUploading => "image_count_uploading",
        }
    }

    pub fn usage_in(self, tx: &Tx, project: &str) -> Result<u64> {
        let sum = |sql: &str| tx.query_one(sql, params![project], |row| row.count(0));
        match self {
            Resource::SizeTotal => Ok(sum(
                "SELECT CAST(COALESCE(SUM(image.size), 0) AS BIGINT) FROM image JOIN image_location l ON l.image_id = image.id WHERE image.owner = ?1",
            )? / MIB),
            Resource::StageTotal => Ok(sum(&format!(
                "SELECT CAST(COALESCE(SUM(image.size), 0) AS BIGINT) FROM image \
                 WHERE image.owner = ?1 AND (image.status IN ('uploading', 'importing') OR {COPYING})"
            ))? / MIB),
            Resource::CountTotal => sum("SELECT COUNT(*) FROM image WHERE owner = ?1"),
            Resource::CountUploading => sum(&format!(
                "SELECT COUNT(*) FROM image WHERE image.owner = ?1 AND (image.status IN ('saving', 'uploading', 'importing') OR {COPYING})"
            )),
        }
    }
}

/// How much of a resource a project has and may have.
pub struct Usage {
    pub resource: Resource,
    pub used: u64,
    /// -1: as much as it likes.
    pub limit: i64,
}

impl Images {
    /// Where limits are kept; without this nothing is limited.
    pub fn limits_set(&self, limits: Limits) {
        // A second time is a mistake of the program's, and changes nothing.
        let _ = self.0.limits.set(limits);
    }

    fn limit_in(&self, tx: &Tx, project: &str, resource: Resource) -> Result<i64> {
        let Some(limits) = self.0.limits.get() else { return Ok(-1) };
        Ok(limits(tx, project, resource.as_str())?.unwrap_or(-1))
    }

    /// Whether the project may have `more` of it. The cloud's own work is for no project and not limited.
    pub(crate) fn enforce_in(&self, tx: &Tx, project: &str, resource: Resource, more: u64) -> Result<()> {
        let limit = self.limit_in(tx, project, resource)?;
        let Ok(limit) = u64::try_from(limit) else { return Ok(()) };
        if project.is_empty() {
            return Ok(());
        }
        let used = resource.usage_in(tx, project)?;
        if used.saturating_add(more) <= limit {
            return Ok(());
        }
        let name = resource.as_str();
        let text =
            format!("Project {project} is over a limit: {name} is limited to {limit}, {used} are used, and {more} more are asked for.");
        Err(Error::new(Kind::QuotaExceeded, text))
    }

    /// MiB of a size that a client announces.
    pub(crate) fn announced(size: Option<u64>) -> u64 {
        size.unwrap_or_default() / MIB
    }

    pub async fn usage(&self, ctx: &Context) -> Result<Vec<Usage>> {
        let project = ctx.project_id();
        let read = self.core().store.read(|tx| {
            let of = |resource: Resource| -> Result<Usage> {
                Ok(Usage { resource, used: resource.usage_in(tx, project)?, limit: self.limit_in(tx, project, resource)? })
            };
            RESOURCES.into_iter().map(of).collect()
        });
        read.await
    }
}
