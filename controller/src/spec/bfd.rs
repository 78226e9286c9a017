//! How BFD is written: `true`, `false`, or a table of its timers.

use super::keys;
use super::place::At;
use super::reader::{Reader, Value};
use super::values;
use routemesh_proto::Bfd;
use std::ops::RangeInclusive;
use toml::de::DeValue;

/// What there is where nothing else is asked for.
pub(super) const DEFAULT: Bfd = Bfd {
    interval: 300,
    multiplier: 3,
};
/// Milliseconds. Below, a host that is only busy is taken for dead; above, BGP's hold timer is as good.
const INTERVAL: RangeInclusive<u32> = 50..=10_000;
const MULTIPLIER: RangeInclusive<u32> = 1..=20;

impl<'t> Reader<'t> {
    pub(super) fn bfd(&mut self, value: &Value<'t>) -> Option<At<Bfd>> {
        let place = self.lines.place(value.span().start);
        match value.get_ref() {
            DeValue::Boolean(wanted) => {
                return wanted.then_some(At {
                    value: DEFAULT,
                    place,
                });
            }
            DeValue::Table(_) => {}
            _ => {
                let reason = "bfd is true, false, or its timers: \
                              bfd = { interval = \"300ms\", multiplier = 3 }";
                self.wrong(place, reason);
                return None;
            }
        }
        let table = self.table("bfd".to_owned(), place, value.get_ref(), keys::BFD)?;
        let written = table.get("interval");
        let interval = written.and_then(|value| {
            let parse = |text: &str| values::millis("interval", text, INTERVAL);
            self.text("interval", value, parse)
        });
        let written = table.get("multiplier");
        let multiplier = written.and_then(|value| self.number("multiplier", value, multiplier));
        Some(At {
            value: Bfd {
                interval: interval.map_or(DEFAULT.interval, |at| at.value),
                multiplier: multiplier.unwrap_or(DEFAULT.multiplier),
            },
            place,
        })
    }
}

fn multiplier(number: u64) -> Result<u32, String> {
    u32::try_from(number)
        .ok()
        .filter(|multiplier| MULTIPLIER.contains(multiplier))
        .ok_or_else(|| {
            format!("multiplier is {number}: how many packets in a row may be lost, 1 to 20")
        })
}
