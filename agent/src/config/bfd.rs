//! Timers of BFD, as the config has them.

use super::{ConfigError, Fields};
use routemesh_bfd::Timers;
use routemesh_proto::Bfd;
use std::time::Duration;

pub(super) fn parse(fields: &Fields, raw: Option<Bfd>) -> Result<Option<Timers>, ConfigError> {
    let Some(Bfd {
        interval,
        multiplier,
    }) = raw
    else {
        return Ok(None);
    };
    if !(50..=10_000).contains(&interval) {
        let expected = "50 to 10000 milliseconds";
        return Err(fields.wrong("bfd.interval", &interval.to_string(), expected));
    }
    match u8::try_from(multiplier) {
        Ok(multiplier @ 1..=20) => Ok(Some(Timers {
            interval: Duration::from_millis(interval.into()),
            multiplier,
        })),
        _ => Err(fields.wrong("bfd.multiplier", &multiplier.to_string(), "1 to 20")),
    }
}
