//! The metrics endpoint, in the OpenMetrics text format.

use std::sync::{Arc, Mutex};

use base::{Result, error::Internal};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

type Labels = [(&'static str, &'static str); 3];

/// All metrics of the process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    requests: Family<Labels, Counter>,
    seconds: Family<[(&'static str, &'static str); 1], Histogram>,
    pub in_flight: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let buckets = || Histogram::new([0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0]);
        let metrics = Metrics {
            registry: Arc::new(Mutex::new(Registry::with_prefix("sturnus"))),
            requests: Family::default(),
            seconds: Family::new_with_constructor(buckets),
            in_flight: Gauge::default(),
        };
        metrics.register("api_requests", "Requests answered", metrics.requests.clone());
        metrics.register("api_request_duration_seconds", "Time from request to answer", metrics.seconds.clone());
        metrics.register("api_requests_in_flight", "Requests being answered", metrics.in_flight.clone());
        metrics
    }
}

impl Metrics {
    /// Adds a metric of a service.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner).register(name, help, metric);
    }

    pub fn observe(&self, service: &'static str, method: &'static str, status: u16, seconds: f64) {
        let class = match status / 100 {
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.requests.get_or_create(&[("service", service), ("method", method), ("status", class)]).inc();
        self.seconds.get_or_create(&[("service", service)]).observe(seconds);
    }

    pub fn render(&self) -> Result<String> {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner)).internal("encoding metrics")?;
        Ok(text)
    }
}
