//! What this controller shows to clients and hosts: replaced in time, with an alarm when that does not come to pass.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base::{Result, Timestamp, error::Internal};
use fault::{Alarm, Faults, Severity};
use pki::{Life, Served};
use store::Store;
use task::Reconciler;

const NAME: &str = "certificates";
/// How often they are looked at.
const LOOK: Duration = Duration::from_secs(12 * 3600);
/// Seconds before its end from which a certificate is an alarm. Ours are replaced long before.
const SOON: i64 = 30 * 24 * 3600;
const EXPIRES_SOON: &str = "500.200";
const EXPIRED: &str = "500.210";

pub struct Certificates {
    store: Store,
    faults: Faults,
    /// The authority's directory.
    pki: PathBuf,
    /// By the names that alarms call them.
    served: Mutex<Vec<(&'static str, Arc<Served>)>>,
}

impl Certificates {
    pub fn new(store: Store, faults: Faults, pki: PathBuf) -> Certificates {
        Certificates { store, faults, pki, served: Mutex::default() }
    }

    /// The built-in authority's certificate for a server with these names.
    pub fn issued(&self, names: Vec<String>) -> Result<Arc<Served>> {
        Ok(self.watched("server", Served::issued(&self.pki, names)?))
    }

    /// The one that the operator gives.
    pub fn given(&self, certificate: &Path, key: &Path) -> Result<Arc<Served>> {
        Ok(self.watched("api", Served::given(certificate, key)?))
    }

    fn watched(&self, name: &'static str, served: Arc<Served>) -> Arc<Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner).push((name, served.clone()));
        task::nudge_here(&self.store, NAME);
        served
    }

    /// The life of each, and what went wrong with any of them.
    fn refresh(served: Vec<(&'static str, Arc<Served>)>, pki: &Path) -> (Vec<(&'static str, Life)>, Result<()>) {
        let (mut lives, mut outcome) = (Vec::new(), Ok(()));
        for (name, served) in served {
            match served.refresh() {
                Ok(true) => tracing::info!("new connections see a new certificate `{name}`"),
                Ok(false) => {}
                Err(error) => outcome = Err(error),
            }
            lives.extend(served.life().map(|life| (name, life)));
        }
        let authority = std::fs::read_to_string(pki.join("ca.crt")).ok().and_then(|pem| Life::of(&pem));
        lives.extend(authority.map(|life| ("authority", life)));
        (lives, outcome)
    }
}

#[async_trait]
impl Reconciler for Certificates {
    fn name(&self) -> &'static str {
        NAME
    }
    fn every(&self) -> Duration {
        LOOK
    }
    fn everywhere(&self) -> bool {
        true
    }
    async fn run(&self) -> Result<()> {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let pki = self.pki.clone();
        let looked = tokio::task::spawn_blocking(move || Certificates::refresh(served, &pki)).await;
        let (lives, outcome) = looked.internal("looking at the certificates broke off")?;
        let faults = self.faults.clone();
        self.store
            .write(move |tx| {
                for (name, life) in &lives {
                    let entity = format!("namespace=sturnus.certificate={name}");
                    let wanted = alarm(name, &entity, life);
                    for id in [EXPIRES_SOON, EXPIRED] {
                        match &wanted {
                            Some(alarm) if alarm.alarm_id == id => drop(faults.alarm_set_in(tx, alarm)?),
                            _ => drop(faults.alarm_clear_in(tx, id, &entity)?),
                        }
                    }
                }
                Ok(())
            })
            .await?;
        outcome
    }
}

/// The alarm that a certificate of this life deserves.
fn alarm(name: &str, entity: &str, life: &Life) -> Option<Alarm> {
    let end = Timestamp(life.end().saturating_mul(1_000_000)).iso();
    let (id, severity, text) = match life.left() {
        left if left <= 0 => (EXPIRED, Severity::Critical, format!("Certificate '{name}' expired at {end}")),
        left if left <= SOON => (EXPIRES_SOON, Severity::Major, format!("Certificate '{name}' expires at {end}")),
        _ => return None,
    };
    let repair = match name {
        "api" => "Replace the files that `tls.certificate` and `tls.key` name; they are read again within 12 hours and at a restart.",
        _ => "It should have been renewed: see the controller's log, and whether the directory `pki` can be written.",
    };
    Some(Alarm::known(id, entity.to_string(), severity, text, repair))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use base::Config;
    use pki::Authority;

    use super::*;
    use crate::cloud::Cloud;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    async fn alarms(cloud: &Cloud) -> BTreeMap<String, String> {
        let faults = cloud.faults.clone();
        let active = cloud.core.store.read(move |tx| faults.alarms_in(tx, fault::Which::Under("namespace=sturnus"))).await.unwrap();
        active.into_iter().map(|a| (a.alarm.entity_instance_id, a.alarm.alarm_id)).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_certificate_that_nobody_replaces_is_an_alarm_until_somebody_does() {
        let home = tempfile::tempdir().unwrap();
        let mut config = Config::for_home(home.path());
        config.set("password.memory_kib", "64");
        config.set("password.passes", "1");
        let cloud = Cloud::open(config).await.unwrap();
        let place = home.path().join("given");
        let certificates = Certificates::new(cloud.core.store.clone(), cloud.faults.clone(), home.path().join("pki"));
        let (certificate, key) = (place.join("api.crt"), place.join("api.key"));
        let give = |life: Duration| {
            let issued = Authority::open(&place).unwrap().lasting(life).issue_server(&["localhost".to_string()]).unwrap();
            std::fs::write(&certificate, issued.certificate).unwrap();
            std::fs::write(&key, issued.key).unwrap();
        };
        give(DAY * 40);
        let shown = certificates.given(&certificate, &key).unwrap();
        let ours = certificates.issued(vec!["localhost".to_string()]).unwrap();
        certificates.run().await.unwrap();
        assert_eq!(alarms(&cloud).await, BTreeMap::new());
        for (life, id) in [(DAY * 10, Some(EXPIRES_SOON)), (Duration::ZERO, Some(EXPIRED)), (DAY * 60, None)] {
            give(life);
            certificates.run().await.unwrap();
            let expected = id.map(|id| ("namespace=sturnus.certificate=api".to_string(), id.to_string()));
            assert_eq!(alarms(&cloud).await, expected.into_iter().collect());
        }
        assert!(shown.life().unwrap().left() > 59 * 24 * 3600);

        // One that is broken keeps no other from being replaced, and the old one is shown.
        std::fs::write(&key, "broken").unwrap();
        std::fs::remove_file(home.path().join("pki/server.names")).unwrap();
        let before = ours.life();
        Authority::open(&home.path().join("pki")).unwrap().lasting(DAY).server_pair(&["localhost".to_string()]).unwrap();
        assert!(certificates.run().await.is_err());
        assert!(shown.life().is_some() && ours.life() != before);
        assert_eq!(alarms(&cloud).await.keys().collect::<Vec<_>>(), ["namespace=sturnus.certificate=server"]);
        cloud.close().await;
    }
}
