//! A BMC by IPMI: `ipmi_sim`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use base::Kind;
use bmc::testing::Simulator;
use bmc::{Access, Action, Bmc, Power, Protocol, Quantity, Status};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn power_goes_off_and_on_and_is_reset() {
    let simulator = Simulator::start();
    let bmc = Bmc::new(Access { protocol: None, ..simulator.access() }).unwrap();
    // Nothing answers as Redfish: it is learned to be IPMI.
    assert_eq!(bmc.learn().await.unwrap(), Protocol::Ipmi);
    assert_eq!(bmc.power().await.unwrap(), Power::On);
    bmc.is_off_within(PATIENCE).await.unwrap();
    assert!(!simulator.is_on());
    assert_eq!(simulator.told(), ["power 0"]);
    // What is off is not told again.
    bmc.is_off_within(PATIENCE).await.unwrap();
    assert_eq!(simulator.told(), ["power 0"]);
    bmc.act(Action::On).await.unwrap();
    bmc.wait(Power::On, PATIENCE).await.unwrap();
    bmc.act(Action::Reset).await.unwrap();
    assert_eq!(simulator.told().last().unwrap(), "reset 1");

    // One that does not do what it is told is not taken for off.
    simulator.stuck_set(true);
    let error = bmc.is_off_within(Duration::from_secs(1)).await.unwrap_err();
    assert!(error.is(Kind::Timeout), "{}", error.chain());
}

#[tokio::test]
async fn sensors_follow_what_is_measured() {
    let simulator = Simulator::start();
    let bmc = Bmc::new(simulator.access()).unwrap();
    for (degrees, status) in [(40, Status::Ok), (85, Status::Minor), (92, Status::Critical), (20, Status::Ok)] {
        simulator.temperature_set(degrees);
        let began = std::time::Instant::now();
        loop {
            let sensors = bmc.sensors().await.unwrap();
            let [sensor] = &sensors[..] else { panic!("{sensors:?}") };
            assert_eq!((sensor.name.as_str(), sensor.quantity), ("CPU Temp", Quantity::Temperature));
            assert_eq!((sensor.thresholds.upper_minor, sensor.thresholds.upper_critical), (Some(80.0), Some(90.0)));
            if (sensor.reading, sensor.status) == (Some(f64::from(degrees)), status) {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{degrees}: {sensor:?}");
        }
    }
}

#[tokio::test]
async fn a_wrong_password_and_silence_are_told_apart() {
    let simulator = Simulator::start();
    let wrong = Bmc::new(Access { password: "wrong".into(), ..simulator.access() }).unwrap();
    let error = wrong.power().await.unwrap_err();
    assert!(error.is(Kind::Forbidden) && !error.chain().contains("wrong"), "{}", error.chain());
    let nobody = Bmc::new(Access { username: "nobody".into(), ..simulator.access() }).unwrap();
    assert!(nobody.power().await.unwrap_err().is(Kind::Forbidden));
    let access = simulator.access();
    drop(simulator);
    let error = Bmc::new(access.clone()).unwrap().power().await.unwrap_err();
    assert!(error.is(Kind::Unavailable), "{}", error.chain());
    assert!(!format!("{access:?}").contains(&access.password));
}

/// Where either protocol may be spoken the other one is tried; a protocol that was named stays.
#[tokio::test]
async fn the_other_protocol_is_tried_where_none_was_named() {
    let simulator = Simulator::start();
    let any = Bmc::new(Access { protocol: None, ..simulator.access() }).unwrap();
    any.switch();
    assert_eq!(any.protocol(), None, "nothing is learned yet");
    assert_eq!(any.power().await.unwrap(), Power::On);
    assert_eq!(any.protocol(), Some(Protocol::Ipmi));
    any.switch();
    assert_eq!(any.protocol(), Some(Protocol::Redfish));
    assert!(any.power().await.is_err(), "it does not speak it");
    any.switch();
    assert_eq!(any.power().await.unwrap(), Power::On);
    let named = Bmc::new(simulator.access()).unwrap();
    named.switch();
    assert_eq!((named.protocol(), named.power().await.unwrap()), (Some(Protocol::Ipmi), Power::On));
}
