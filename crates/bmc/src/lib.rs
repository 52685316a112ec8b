//! A machine's management controller (BMC): its power and its sensors, by IPMI 2.0 (RMCP+) or Redfish, one interface over both.
//!
//! What a BMC said is true of the moment it said it: who must be certain, asks again ([`Bmc::is_off_within`]).
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod address;
mod ipmi;
mod redfish;
mod sensor;
pub mod testing;

pub use address::Address;
pub use sensor::{Quantity, Sensor, Status, Thresholds};

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base::{Error, Kind, Result};
use tokio::time::{Instant, timeout_at};

/// How often a machine that is changing its power is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// More sensors than this a machine has not (maintenance specification, section 9).
pub const SENSORS: usize = 256;

/// The language a BMC is spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Ipmi,
    Redfish,
}

impl Protocol {
    pub fn word(self) -> &'static str {
        match self {
            Protocol::Ipmi => "ipmi",
            Protocol::Redfish => "redfish",
        }
    }

    fn other(self) -> Protocol {
        match self {
            Protocol::Ipmi => Protocol::Redfish,
            Protocol::Redfish => Protocol::Ipmi,
        }
    }
}

/// Where a BMC is and how one may enter.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    pub address: Address,
    pub username: String,
    pub password: String,
    /// None: whichever it answers, Redfish first.
    pub protocol: Option<Protocol>,
    /// PEM file of the authorities that certificates of Redfish may have; none: any certificate is taken, as BMCs make their own.
    pub authorities: Option<PathBuf>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {} by {:?}", self.username, self.address, self.protocol)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    On,
    Off,
    /// On its way to one of them.
    Changing,
}

/// What a BMC is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    On,
    /// At once: the operating system is not asked.
    Off,
    /// At once, and on again.
    Reset,
}

impl Action {
    pub fn word(self) -> &'static str {
        match self {
            Action::On => "power-on",
            Action::Off => "power-off",
            Action::Reset => "reset",
        }
    }
}

/// One machine's BMC.
pub struct Bmc {
    access: Access,
    ipmi: ipmi::Ipmi,
    redfish: redfish::Redfish,
    learned: Mutex<Option<Protocol>>,
}

impl Bmc {
    pub fn new(access: Access) -> Result<Bmc> {
        Ok(Bmc { ipmi: ipmi::Ipmi::new(&access), redfish: redfish::Redfish::new(&access)?, learned: Mutex::new(access.protocol), access })
    }

    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The protocol that it is known to speak.
    pub fn protocol(&self) -> Option<Protocol> {
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which of the two it speaks.
    pub async fn learn(&self) -> Result<Protocol> {
        if let Some(known) = self.protocol() {
            return Ok(known);
        }
        let found = match self.redfish.is_there().await {
            true => Protocol::Redfish,
            false => {
                // It is IPMI when that answers; when nothing does, nothing is learned.
                self.ipmi.power().await?;
                Protocol::Ipmi
            }
        };
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Ok(found)
    }

    /// Tries the other protocol from now on, where either may be used (maintenance specification, section 3).
    pub fn switch(&self) {
        if self.access.protocol.is_none() {
            let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
            *learned = learned.map(Protocol::other);
        }
    }

    pub async fn power(&self) -> Result<Power> {
        match self.learn().await? {
            Protocol::Ipmi => self.ipmi.power().await,
            Protocol::Redfish => self.redfish.power().await,
        }
    }

    /// Ok: the BMC has taken it; whether it has been done [`Bmc::power`] tells.
    pub async fn act(&self, action: Action) -> Result<()> {
        let protocol = self.learn().await?;
        tracing::info!(bmc = %self.access.address, protocol = protocol.word(), "{}", action.word());
        match protocol {
            Protocol::Ipmi => self.ipmi.act(action).await,
            Protocol::Redfish => self.redfish.act(action).await,
        }
    }

    pub async fn sensors(&self) -> Result<Vec<Sensor>> {
        let mut sensors = match self.learn().await? {
            Protocol::Ipmi => self.ipmi.sensors().await?,
            Protocol::Redfish => self.redfish.sensors().await?,
        };
        sensor::distinct(&mut sensors);
        sensors.truncate(SENSORS);
        Ok(sensors)
    }

    /// Waits until the machine's power is so, for a while.
    pub async fn wait(&self, wanted: Power, patience: Duration) -> Result<()> {
        self.wait_until(wanted, Instant::now() + patience).await
    }

    async fn wait_until(&self, wanted: Power, end: Instant) -> Result<()> {
        let mut last = Err(silent());
        loop {
            // What it said before counts when the time is over while it is asked.
            let Ok(seen) = timeout_at(end, self.power()).await else { return last };
            last = match seen {
                Ok(power) if power == wanted => return Ok(()),
                Ok(power) => Err(Error::timeout(format!("the machine is {power:?}, and should be {wanted:?}"))),
                // It is asked no more than it would be by waiting.
                Err(error) if error.is(Kind::Forbidden) => return Err(error),
                Err(error) => Err(error),
            };
            if Instant::now() + LOOK >= end {
                return last;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Switches the machine off, and is certain of it when this is Ok. All of it takes no longer than `patience`.
    pub async fn is_off_within(&self, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        let told = async {
            match self.power().await? {
                Power::Off => Ok(()),
                _ => self.act(Action::Off).await,
            }
        };
        timeout_at(end, told).await.unwrap_or_else(|_| Err(silent()))?;
        self.wait_until(Power::Off, end).await
    }
}

fn silent() -> Error {
    Error::timeout("the BMC does not answer")
}
