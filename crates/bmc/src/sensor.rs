//! What a BMC measures.

use std::collections::HashMap;

/// How a reading is judged, by the BMC itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Ok,
    /// It is there and says nothing.
    Offline,
    Minor,
    Major,
    Critical,
}

impl Status {
    pub fn word(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Offline => "offline",
            Status::Minor => "minor",
            Status::Major => "major",
            Status::Critical => "critical",
        }
    }
    pub fn parse(word: &str) -> Status {
        match word {
            "ok" => Status::Ok,
            "minor" => Status::Minor,
            "major" => Status::Major,
            "critical" => Status::Critical,
            _ => Status::Offline,
        }
    }
}

/// What is measured: sensors are grouped by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quantity {
    Temperature,
    Fan,
    Voltage,
    /// Also currents and energies.
    Power,
    /// Of processors, memory and the like.
    Usage,
}

impl Quantity {
    pub const ALL: [Quantity; 5] = [Quantity::Temperature, Quantity::Fan, Quantity::Voltage, Quantity::Power, Quantity::Usage];

    /// Also the type of its sensors in StarlingX's inventory.
    pub fn word(self) -> &'static str {
        match self {
            Quantity::Temperature => "temperature",
            Quantity::Fan => "fan",
            Quantity::Voltage => "voltage",
            Quantity::Power => "power",
            Quantity::Usage => "usage",
        }
    }
    pub fn parse(word: &str) -> Option<Quantity> {
        Quantity::ALL.into_iter().find(|quantity| quantity.word() == word)
    }

    /// None: not a quantity, as the states of discrete sensors.
    pub(crate) fn of_unit(unit: &str) -> Option<Quantity> {
        match unit.trim().to_ascii_lowercase().as_str() {
            "degrees c" | "degrees f" | "degrees k" | "cel" => Some(Quantity::Temperature),
            "rpm" | "cfm" | "rev/min" | "{rev}/min" => Some(Quantity::Fan),
            "volts" | "v" => Some(Quantity::Voltage),
            "amps" | "watts" | "joules" | "a" | "w" | "j" | "va" => Some(Quantity::Power),
            "percent" | "%" | "unspecified" => Some(Quantity::Usage),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thresholds {
    pub lower_critical: Option<f64>,
    pub lower_major: Option<f64>,
    pub lower_minor: Option<f64>,
    pub upper_minor: Option<f64>,
    pub upper_major: Option<f64>,
    pub upper_critical: Option<f64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sensor {
    pub name: String,
    pub quantity: Quantity,
    pub reading: Option<f64>,
    pub unit: String,
    pub status: Status,
    pub thresholds: Thresholds,
}

/// Names are those of the machine's maker, who may have used one twice.
pub(crate) fn distinct(sensors: &mut [Sensor]) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for sensor in sensors {
        // An entity of an alarm has to hold it.
        sensor.name = sensor.name.chars().filter(|c| !c.is_control()).take(100).collect();
        let times = seen.entry(sensor.name.clone()).or_default();
        *times += 1;
        if *times > 1 {
            sensor.name = format!("{} {times}", sensor.name);
        }
    }
}
