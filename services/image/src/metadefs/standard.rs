//! The standard definitions: those that upstream ships, one file of `metadefs/` for each namespace.
//!
//! They are loaded when the service starts. What an administrator has changed or deleted stays as it was made; what nobody has
//! touched becomes what a newer release ships.

use base::{Error, Result, error::Internal};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use store::Tx;

use super::{insert_in, new_namespace};
use crate::Images;
use crate::content::hex;
use crate::db::metadefs as db;

const FILES: &[&str] = &[
    include_str!("../../metadefs/cim-processorallocationsettingdata.json"),
    include_str!("../../metadefs/cim-resourceallocationsettingdata.json"),
    include_str!("../../metadefs/cim-storageallocationsettingdata.json"),
    include_str!("../../metadefs/cim-virtualsystemsettingdata.json"),
    include_str!("../../metadefs/cinder-volumetype.json"),
    include_str!("../../metadefs/compute-aggregatediskfilter.json"),
    include_str!("../../metadefs/compute-aggregateioopsfilter.json"),
    include_str!("../../metadefs/compute-aggregatenuminstancesfilter.json"),
    include_str!("../../metadefs/compute-cpumode.json"),
    include_str!("../../metadefs/compute-cpupinning.json"),
    include_str!("../../metadefs/compute-guestmemorybacking.json"),
    include_str!("../../metadefs/compute-guestshutdownbehavior.json"),
    include_str!("../../metadefs/compute-hostcapabilities.json"),
    include_str!("../../metadefs/compute-hypervisor.json"),
    include_str!("../../metadefs/compute-instancedata.json"),
    include_str!("../../metadefs/compute-libvirt.json"),
    include_str!("../../metadefs/compute-libvirtimage.json"),
    include_str!("../../metadefs/compute-quota.json"),
    include_str!("../../metadefs/compute-randomnumbergenerator.json"),
    include_str!("../../metadefs/compute-tpm.json"),
    include_str!("../../metadefs/compute-virtcputopology.json"),
    include_str!("../../metadefs/compute-vmware.json"),
    include_str!("../../metadefs/compute-vmwareflavor.json"),
    include_str!("../../metadefs/compute-vmwarequotaflavor.json"),
    include_str!("../../metadefs/compute-vtpm.json"),
    include_str!("../../metadefs/compute-watchdog.json"),
    include_str!("../../metadefs/compute-xenapi.json"),
    include_str!("../../metadefs/glance-commonimageproperties.json"),
    include_str!("../../metadefs/glance-signatures.json"),
    include_str!("../../metadefs/operatingsystem.json"),
    include_str!("../../metadefs/software-dbms.json"),
    include_str!("../../metadefs/software-runtimes.json"),
    include_str!("../../metadefs/software-webservers.json"),
];

/// The project they belong to, as upstream.
const OWNER: &str = "admin";
/// Stands for all of them where digests are kept.
const ALL: &str = "";

fn digest(texts: &[&str]) -> String {
    let mut sha256 = Sha256::new();
    texts.iter().for_each(|text| sha256.update(text.as_bytes()));
    hex(&sha256.finalize())
}

fn parse(text: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(text).internal("reading a standard metadata definition")? {
        Value::Object(body) => Ok(body),
        _ => Err(Error::internal("a standard metadata definition that is no object")),
    }
}

impl Images {
    /// Loads what is new in this release.
    pub(crate) async fn standard_load(&self) -> Result<()> {
        let all = digest(FILES);
        if self.core().store.read(|tx| db::standard_fetch(tx, ALL)).await?.as_ref() == Some(&all) {
            return Ok(());
        }
        self.core().store.write(move |tx| load_in(tx, FILES, &all)).await
    }
}

fn load_in(tx: &Tx, files: &[&str], all: &str) -> Result<()> {
    // Written first: of two controllers that start at once the second waits here.
    db::standard_store(tx, ALL, all)?;
    for text in files {
        let body = parse(text)?;
        let whole = new_namespace(&body, Some(OWNER.to_string()))?;
        let name = whole.namespace.namespace.clone();
        let (loaded, now) = (db::standard_fetch(tx, &name)?, digest(&[text]));
        if loaded.as_ref() == Some(&now) {
            continue;
        }
        db::standard_store(tx, &name, &now)?;
        match (loaded, db::namespace_fetch(tx, &name)?) {
            (None, None) => insert_in(tx, &whole.namespace, &whole.items)?,
            // As it was loaded: nobody has changed it since.
            (Some(_), Some(there)) if there.generation == 1 => {
                db::namespace_delete(tx, &there.id)?;
                insert_in(tx, &whole.namespace, &whole.items)?;
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadefs::ItemKind;

    #[test]
    fn the_files_are_good() {
        let mut names = std::collections::BTreeSet::new();
        for text in FILES {
            let body = parse(text).unwrap();
            crate::schema::metadefs::check(&crate::schema::metadefs::namespace(), &body).unwrap();
            assert!(names.insert(body["namespace"].as_str().unwrap().to_string()));
        }
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/metadefs")).unwrap().count();
        assert_eq!((names.len(), files), (33, 33));
    }

    #[tokio::test]
    async fn what_nobody_has_touched_is_brought_up_to_date() {
        let dir = tempfile::tempdir().unwrap();
        let store = store::Store::open(&format!("sqlite:{}/s.db", dir.path().display())).await.unwrap();
        store.migrate("image", crate::MIGRATIONS).await.unwrap();
        const OLD: [&str; 4] = [
            r#"{"namespace": "kept", "tags": [{"name": "old"}]}"#,
            r#"{"namespace": "touched", "tags": [{"name": "old"}]}"#,
            r#"{"namespace": "deleted", "tags": [{"name": "old"}]}"#,
            r#"{"namespace": "same", "tags": [{"name": "old"}]}"#,
        ];
        const NEW: [&str; 5] = [
            r#"{"namespace": "kept", "tags": [{"name": "new"}]}"#,
            r#"{"namespace": "touched", "tags": [{"name": "new"}]}"#,
            r#"{"namespace": "deleted", "tags": [{"name": "new"}]}"#,
            r#"{"namespace": "same", "tags": [{"name": "old"}]}"#,
            r#"{"namespace": "added", "tags": [{"name": "new"}]}"#,
        ];
        store.write(|tx| load_in(tx, &OLD, "1")).await.unwrap();
        let before = store.read(|tx| Ok(db::namespace_fetch(tx, "same")?.unwrap().id)).await.unwrap();
        let change = store.write(|tx| {
            db::namespace_touch(tx, &db::namespace_fetch(tx, "touched")?.unwrap().id)?;
            db::namespace_delete(tx, &db::namespace_fetch(tx, "deleted")?.unwrap().id)
        });
        change.await.unwrap();
        store.write(|tx| load_in(tx, &NEW, "2")).await.unwrap();
        let tag_of = |name: &str| -> Option<String> {
            let read = store.read(|tx| {
                let Some(namespace) = db::namespace_fetch(tx, name)? else { return Ok(None) };
                Ok(db::item_list(tx, &namespace.id, Some(ItemKind::Tag))?.pop().map(|tag| tag.name))
            });
            futures_util::FutureExt::now_or_never(read).unwrap().unwrap()
        };
        let tags = ["kept", "touched", "deleted", "same", "added"].map(|name| tag_of(name).unwrap_or_else(|| "none".into()));
        assert_eq!(tags, ["new", "old", "none", "old", "new"]);
        let after = store.read(|tx| Ok(db::namespace_fetch(tx, "same")?.unwrap().id)).await.unwrap();
        assert_eq!(before, after);
        store.close().await;
    }
}
