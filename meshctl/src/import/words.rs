//! strongSwan's words for values -> a specification's.

use super::Options;
use ipnet::IpNet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use toml::Value;

/// Seconds of "28800s", "8h", "1d", "90"; `None` for what is no time.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = match text.char_indices().last()? {
        (at, 's') => (text.get(..at)?, 1),
        (at, 'm') => (text.get(..at)?, 60),
        (at, 'h') => (text.get(..at)?, 3600),
        (at, 'd') => (text.get(..at)?, 86400),
        _ => (text, 1),
    };
    number.trim().parse::<u64>().ok()?.checked_mul(unit)
}

/// The largest unit that says it exactly.
pub(super) fn time(seconds: u64) -> String {
    let units = [(86400, "d"), (3600, "h"), (60, "m")];
    let exact = |(length, _): &&(u64, &str)| seconds > 0 && seconds.is_multiple_of(*length);
    match units.iter().find(exact) {
        Some((length, unit)) => format!("{}{unit}", seconds / length),
        None => format!("{seconds}s"),
    }
}

const MINUTE: u64 = 60;
const DAY: u64 = 86400;

/// Keys of a specification that are times, and what they take.
const TIMES: [(&str, RangeInclusive<u64>); 4] = [
    ("rekey_time", MINUTE..=30 * DAY),
    ("reauth_time", 5 * MINUTE..=366 * DAY),
    ("over_time", 30..=DAY),
    ("dpd_delay", 1..=10 * MINUTE),
];

/// Puts a time among the options. 0 is never, which is what its absence says, but for new keys, which are made
/// always. An error is what to tell.
pub(super) fn put_time(options: &mut Options, key: &'static str, text: &str) -> Result<(), String> {
    let seconds = seconds(text).ok_or_else(|| format!("{text:?} is not a time"))?;
    if seconds == 0 && key == "rekey_time" {
        return Err(
            "new keys are always made: rekey_time stays as it is without a word".to_owned(),
        );
    }
    if seconds == 0 {
        return Ok(());
    }
    let range = TIMES.iter().find(|(it, _)| *it == key);
    if let Some((_, range)) = range.filter(|(_, range)| !range.contains(&seconds)) {
        let (least, most) = (time(*range.start()), time(*range.end()));
        return Err(format!(
            "{key} = {text} is not possible, {least} to {most} is: it is left out"
        ));
    }
    options.insert(key, Value::String(time(seconds)));
    Ok(())
}

/// Proposals with commas between; "default" and "!" say nothing of their own.
pub(super) fn put_proposals(options: &mut Options, text: &str) {
    let words = text.trim_end_matches('!').split(',').map(str::trim);
    let words = words.filter(|word| !word.is_empty() && *word != "default");
    let proposals: Vec<Value> = words.map(|word| Value::String(word.to_owned())).collect();
    if !proposals.is_empty() {
        options.insert("proposals", Value::Array(proposals));
    }
}

/// "yes", "true", "1", "enabled".
pub(super) fn truth(text: &str) -> bool {
    matches!(text, "yes" | "true" | "1" | "enabled")
}

/// An address or a host name that a specification can have; `None` for wildcards and what is neither.
pub(super) fn address(text: &str) -> Option<String> {
    let text = text.trim();
    if text.parse::<IpAddr>().is_ok() {
        return Some(text.to_owned());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let named = text.contains('.') && text.chars().any(|c| c.is_ascii_alphabetic());
    (named && text.chars().all(plain)).then(|| text.to_owned())
}

/// What a traffic selector means to a route.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Selector {
    Everything,
    Net(IpNet),
    /// The gateways' own addresses only, "dynamic".
    Own,
    /// No selector, or one with protocols, ports or ranges.
    Strange,
}

/// "0.0.0.0/0", "10.0.1.0/24", "dynamic".
pub(super) fn selector(text: &str) -> Selector {
    let text = text.trim();
    if matches!(text, "dynamic" | "%dynamic") {
        return Selector::Own;
    }
    let alone = |text: &str| text.parse::<IpAddr>().map(IpNet::from);
    match text.parse::<IpNet>().or_else(|_| alone(text)) {
        Ok(net) if net.prefix_len() == 0 => Selector::Everything,
        Ok(net) => Selector::Net(net.trunc()),
        Err(_) => Selector::Strange,
    }
}

/// "42", "0x2a", "42/0xffffffff"; `None` for "%unique" and the like.
pub(super) fn number(text: &str) -> Option<u32> {
    let text = text.split('/').next()?.trim();
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
