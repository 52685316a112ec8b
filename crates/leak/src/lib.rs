//! The leak check: takes stock of everything on a machine that a host may have made, and sorts it by what the
//! host's stored documents say should be there.
//!
//! It shares no code with the host, so that a mistake there is not repeated here: it reads `/proc`, the
//! control groups, the links, namespaces and tables, and the files of one home. It changes nothing.
//!
//! A host at work is between two states; the check speaks of a quiet one.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod files;
mod groups;
mod network;
mod processes;
mod records;
mod volumes;

use std::fmt;
use std::path::Path;

use base::Result;

/// What a thing is found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Wanted, and as it should be.
    Live,
    /// Not in use, and left there on purpose.
    Kept,
    /// Ours, and its reason is gone.
    Stale,
    /// It does not fit what is said of it elsewhere.
    Contradictory,
    /// Looks like ours and is not, as far as can be proven; never to be touched.
    Foreign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Document,
    Process,
    ControlGroup,
    File,
    Link,
    Namespace,
    Table,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Item {
    pub kind: Kind,
    pub name: String,
    pub verdict: Verdict,
    pub why: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    pub items: Vec<Item>,
}

impl Report {
    fn add(&mut self, kind: Kind, name: impl Into<String>, verdict: Verdict, why: impl Into<String>) {
        self.items.push(Item { kind, name: name.into(), verdict, why: why.into() });
    }

    /// What needs attention: stale and contradictory things.
    pub fn findings(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|i| matches!(i.verdict, Verdict::Stale | Verdict::Contradictory))
    }

    pub fn is_clean(&self) -> bool {
        self.findings().next().is_none()
    }

    pub fn with(&self, verdict: Verdict) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(move |i| i.verdict == verdict)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for item in &self.items {
            let (verdict, kind) = (format!("{:?}", item.verdict).to_lowercase(), format!("{:?}", item.kind).to_lowercase());
            writeln!(f, "{verdict:13} {kind:12} {}  ({})", item.name, item.why)?;
        }
        let count = |verdict| self.with(verdict).count();
        write!(
            f,
            "{} live, {} kept, {} stale, {} contradictory, {} foreign",
            count(Verdict::Live),
            count(Verdict::Kept),
            count(Verdict::Stale),
            count(Verdict::Contradictory),
            count(Verdict::Foreign)
        )
    }
}

/// Looks at the machine as the host of this home should have left it.
pub fn take_stock(home: &Path) -> Result<Report> {
    let home = home.canonicalize().unwrap_or_else(|_| home.to_path_buf());
    let mut report = Report::default();
    let records = records::read(&home, &mut report)?;
    let processes = processes::check(&home, &records, &mut report)?;
    groups::check(&records, &processes, &mut report)?;
    files::check(&home, &records, &mut report)?;
    network::check(&records, &mut report)?;
    report.items.sort_by(|a, b| (b.verdict, a.kind, &a.name).cmp(&(a.verdict, b.kind, &b.name)));
    Ok(report)
}
