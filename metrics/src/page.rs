//! A page of figures, in the order in which they are put on it.

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// What tells the values of one figure apart: names and values.
pub type Labels = Vec<(&'static str, String)>;

/// Figures as they are at one moment. Every name begins with `routemesh_`.
pub struct Page {
    registry: Registry,
}

impl Default for Page {
    fn default() -> Self {
        Self {
            registry: Registry::with_prefix("routemesh"),
        }
    }
}

impl Page {
    /// What goes up and down. Without values, it is not on the page.
    pub fn gauge(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        let family = Family::<Labels, Gauge>::default();
        for (labels, value) in values {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            family.get_or_create(&labels).set(value);
        }
        self.registry.register(name, help, family);
    }

    /// What only goes up; its name gets `_total` at its end.
    pub fn counter(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in values {
            // Two values with the same labels are one.
            family.get_or_create(&labels).inc_by(value);
        }
        self.registry.register(name, help, family);
    }

    /// Time that only adds up; its name ends in `_seconds`, and gets `_total` at its end.
    pub fn seconds(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, Duration)>,
    ) {
        let family = Family::<Labels, Counter<f64, AtomicU64>>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value.as_secs_f64());
        }
        self.registry.register(name, help, family);
    }

    /// As OpenMetrics text.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_open_metrics() {
        let mut page = Page::default();
        let one = |peer: &str| vec![("peer", peer.to_owned())];
        page.gauge(
            "mtu_bytes",
            "Of a tunnel",
            [(one("a"), 1426), (one("b\"\n"), u64::MAX)],
        );
        page.counter("lost", "Packets", [(vec![], 2), (vec![], 3)]);
        page.counter("nothing", "Is left out", []);
        let time = Duration::from_millis(2500);
        page.seconds("work_seconds", "Of all", [(vec![], time), (vec![], time)]);
        let expected = r#"# HELP routemesh_mtu_bytes Of a tunnel.
# TYPE routemesh_mtu_bytes gauge
routemesh_mtu_bytes{peer="a"} 1426
routemesh_mtu_bytes{peer="b\"\n"} 9223372036854775807
# HELP routemesh_lost Packets.
# TYPE routemesh_lost counter
routemesh_lost_total{} 5
# HELP routemesh_work_seconds Of all.
# TYPE routemesh_work_seconds counter
routemesh_work_seconds_total{} 5.0
# EOF
"#;
        let mut lines: Vec<_> = page.text().unwrap().lines().map(str::to_owned).collect();
        let mut expected: Vec<_> = expected.lines().map(str::to_owned).collect();
        // A family has no order of its own.
        lines.sort();
        expected.sort();
        assert_eq!(lines, expected);
    }
}
