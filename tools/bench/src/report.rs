//! Figures, their limits, a table and a JSON file.

use std::time::Duration;

use serde_json::{Value, json};

/// Which side of the limit is good.
#[derive(Clone, Copy, PartialEq)]
pub enum Want {
    Below(f64),
    Above(f64),
    /// Told, not judged.
    Any,
}

pub struct Figure {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    pub want: Want,
    /// CPU time of `sturnus` for one of these, in milliseconds.
    pub cpu_ms: Option<f64>,
}

#[derive(Default)]
pub struct Report {
    pub figures: Vec<Figure>,
    pub failures: Vec<String>,
}

impl Report {
    pub fn add(&mut self, name: &str, value: f64, unit: &'static str, want: Want, cpu_ms: Option<f64>) {
        // With its CPU time, also when the run does not come to its end.
        let cpu = cpu_ms.map(|c| format!(", {c:.3} ms CPU each")).unwrap_or_default();
        eprintln!("  {name}: {value:.2} {unit}{cpu}");
        self.figures.push(Figure { name: name.to_string(), value, unit, want, cpu_ms });
    }

    pub fn json(&self) -> Value {
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|f| {
                let (limit, met) = match f.want {
                    Want::Below(limit) => (Some(limit), Some(f.value < limit)),
                    Want::Above(limit) => (Some(limit), Some(f.value > limit)),
                    Want::Any => (None, None),
                };
                json!({"name": f.name, "value": f.value, "unit": f.unit, "limit": limit, "met": met, "cpu_ms_per_request": f.cpu_ms})
            })
            .collect();
        json!({"figures": figures, "failures": self.failures})
    }

    /// `before`: the JSON of an earlier run, shown beside.
    pub fn table(&self, before: Option<&Value>) -> String {
        let old = |name: &str| {
            let rows = before?.get("figures")?.as_array()?;
            rows.iter().find(|row| row["name"] == name)?["value"].as_f64()
        };
        let mut text = format!("{:<58} {:>10} {:>10} {:>9}  {:<4} {:>10}\n", "", "measured", "wanted", "", "", "cpu ms/req");
        for f in &self.figures {
            let (wanted, met) = match f.want {
                Want::Below(limit) => (format!("< {limit}"), if f.value < limit { "ok" } else { "MISS" }),
                Want::Above(limit) => (format!("> {limit}"), if f.value > limit { "ok" } else { "MISS" }),
                Want::Any => (String::new(), ""),
            };
            let before = old(&f.name).map(|v| format!("was {v:.2}")).unwrap_or_default();
            let cpu = f.cpu_ms.map(|c| format!("{c:.3}")).unwrap_or_default();
            let value = format!("{:.2}", f.value);
            text += &format!("{:<58} {value:>10} {wanted:>10} {:>9}  {met:<4} {cpu:>10}  {before}\n", f.name, f.unit);
        }
        for failure in &self.failures {
            text += &format!("FAILED {failure}\n");
        }
        text
    }
}

/// The value below which `part` (0 to 1) of the samples lie, in milliseconds.
pub fn percentile(samples: &mut [Duration], part: f64) -> f64 {
    samples.sort();
    let at = ((samples.len() as f64 * part) as usize).min(samples.len().saturating_sub(1));
    samples.get(at).map(|d| d.as_secs_f64() * 1000.0).unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_and_of_no_samples() {
        let mut samples: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut samples, 0.5), 51.0);
        assert_eq!(percentile(&mut samples, 0.99), 100.0);
        assert!(percentile(&mut [], 0.5).is_nan());
    }

    #[test]
    fn a_missed_limit_is_told_and_so_is_the_figure_before() {
        let mut report = Report::default();
        report.add("start", 400.0, "ms", Want::Below(300.0), None);
        report.add("rate", 12000.0, "/s", Want::Above(10000.0), Some(0.07));
        let table = report.table(Some(&json!({"figures": [{"name": "start", "value": 250.0}]})));
        assert!(table.contains("MISS") && table.contains("was 250.00") && table.contains("ok") && table.contains("0.070"));
        assert_eq!(report.json()["figures"][0]["met"], false);
    }
}
