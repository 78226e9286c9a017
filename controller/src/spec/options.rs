//! How a tunnel's SAs are made and kept: written for the mesh, for a site, or for the tunnels
//! between two gateways, key by key; the narrower counts.

use super::check::error;
use super::keys;
use super::place::{At, SpecError, quote};
use super::reader::{Reader, Table, Value};
use super::values;
use routemesh_proto::{ESP_PROPOSAL, EspOptions, IKE_PROPOSAL, IkeOptions};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// What is written of them, by table (`ike`, `esp`) and key.
pub type Options = BTreeMap<(&'static str, &'static str), At<Setting>>;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// In strongSwan's words, best first.
    IkeProposals(Vec<String>),
    /// Seconds until an IKE_SA gets new keys.
    IkeRekeyTime(u32),
    /// Seconds until an IKE_SA is made anew.
    IkeReauthTime(u32),
    /// Seconds for which an IKE_SA lives on when that does not succeed.
    IkeOverTime(u32),
    /// Seconds of silence after which the peer is asked for a sign of life.
    DpdDelay(u32),
    /// RFC 4555.
    Mobike(bool),
    /// In strongSwan's words, best first.
    EspProposals(Vec<String>),
    /// Seconds until a CHILD_SA gets new keys.
    EspRekeyTime(u32),
    /// Seconds for which a CHILD_SA lives on when that does not succeed.
    EspOverTime(u32),
    /// Packets that may overtake each other.
    ReplayWindow(u32),
    /// What the network interface does: `no`, `crypto`, `packet`, `auto`.
    HwOffload(&'static str),
    /// Policies for what is forwarded outwards.
    PoliciesFwdOut(bool),
    /// `tunnel`, `iptfs`.
    Mode(&'static str),
}

const OFFLOADS: [&str; 4] = ["no", "crypto", "packet", "auto"];
const MODES: [&str; 2] = ["tunnel", "iptfs"];
/// What interfaces that do all of ESP take.
const PACKET_WINDOWS: [u32; 4] = [32, 64, 128, 256];
/// RFC 9611, in strongSwan since 6.0.2.
const PER_CPU: &str = "SAs for each processor are made by strongSwan's trap policies whenever a processor first sends, and \
                       in a mesh the agents make the SAs, one for each tunnel: remove esp.per_cpu_sas";

const MINUTE: u32 = 60;
const DAY: u32 = 86_400;
const REKEY: RangeInclusive<u32> = MINUTE..=30 * DAY;
const REAUTH: RangeInclusive<u32> = 5 * MINUTE..=366 * DAY;
/// Less is over before a request that is lost a few times has been answered.
const OVER: RangeInclusive<u32> = 30..=DAY;
const DPD: RangeInclusive<u32> = 1..=10 * MINUTE;
/// Less than strongSwan's own serves nobody; the kernel's bitmap ends at the other.
const WINDOW: RangeInclusive<u32> = 32..=4096;

/// As a gateway is told.
pub fn render(options: &Options) -> (IkeOptions, EspOptions) {
    let mut ike = IkeOptions {
        proposals: vec![IKE_PROPOSAL.to_owned()],
        ..IkeOptions::default()
    };
    let mut esp = EspOptions {
        proposals: vec![ESP_PROPOSAL.to_owned()],
        ..EspOptions::default()
    };
    for setting in options.values() {
        match &setting.value {
            Setting::IkeProposals(proposals) => ike.proposals.clone_from(proposals),
            Setting::IkeRekeyTime(seconds) => ike.rekey_time = Some(*seconds),
            Setting::IkeReauthTime(seconds) => ike.reauth_time = Some(*seconds),
            Setting::IkeOverTime(seconds) => ike.over_time = Some(*seconds),
            Setting::DpdDelay(seconds) => ike.dpd_delay = Some(*seconds),
            Setting::Mobike(wanted) => ike.mobike = Some(*wanted),
            Setting::EspProposals(proposals) => esp.proposals.clone_from(proposals),
            Setting::EspRekeyTime(seconds) => esp.rekey_time = Some(*seconds),
            Setting::EspOverTime(seconds) => esp.over_time = Some(*seconds),
            Setting::ReplayWindow(packets) => esp.replay_window = Some(*packets),
            Setting::HwOffload(word) => esp.hw_offload = Some((*word).to_owned()),
            Setting::PoliciesFwdOut(wanted) => esp.policies_fwd_out = Some(*wanted),
            Setting::Mode(word) => esp.mode = Some((*word).to_owned()),
        }
    }
    (ike, esp)
}

/// What cannot be had together, of what holds for a tunnel.
pub(super) fn clash(options: &Options) -> Option<SpecError> {
    let esp = |key| options.get(&("esp", key));
    let offload = esp("hw_offload")?;
    let Setting::HwOffload(how @ ("crypto" | "packet")) = offload.value else {
        return None;
    };
    if let Some(mode) = esp("mode").filter(|it| it.value == Setting::Mode("iptfs")) {
        let reason = format!(
            "no network interface does IP-TFS itself: remove esp.hw_offload = {how:?}, or esp.mode = \"iptfs\" on line {}",
            mode.place.line
        );
        return Some(error(offload.place, reason));
    }
    let window = esp("replay_window").filter(|_| how == "packet")?;
    match window.value {
        Setting::ReplayWindow(packets) if !PACKET_WINDOWS.contains(&packets) => {
            let reason = format!(
                "esp.replay_window is {packets}, and with esp.hw_offload = \"packet\" (line {}) interfaces take 32, 64, 128 or 256",
                offload.place.line
            );
            Some(error(window.place, reason))
        }
        _ => None,
    }
}

impl<'t> Reader<'t> {
    /// What the tables `ike` and `esp` of a table say.
    pub(super) fn options(&mut self, of: &Table<'_, 't>) -> Options {
        let mut options = Options::new();
        for (name, keys) in [("ike", keys::IKE), ("esp", keys::ESP)] {
            let Some(value) = of.get(name) else { continue };
            let place = self.lines.place(value.span().start);
            let what = format!("{name} of {}", of.what);
            let Some(table) = self.table(what, place, value.get_ref(), keys) else {
                continue;
            };
            for key in keys.iter().map(|key| key.name) {
                let Some(value) = table.get(key) else {
                    continue;
                };
                if let Some(value) = self.setting(name, key, value) {
                    options.insert((name, key), value);
                }
            }
        }
        options
    }

    fn setting(&mut self, table: &str, key: &str, value: &Value<'t>) -> Option<At<Setting>> {
        let what = format!("{table}.{key}");
        let place = self.lines.place(value.span().start);
        let mut time = |range: RangeInclusive<u32>| {
            let parse = |text: &str| seconds(&what, text, &range);
            self.text(&what, value, parse).map(|at| at.value)
        };
        let setting = match (table, key) {
            ("ike", "rekey_time") => Setting::IkeRekeyTime(time(REKEY)?),
            ("ike", "reauth_time") => Setting::IkeReauthTime(time(REAUTH)?),
            ("ike", "over_time") => Setting::IkeOverTime(time(OVER)?),
            ("ike", "dpd_delay") => Setting::DpdDelay(time(DPD)?),
            ("ike", "mobike") => Setting::Mobike(self.flag(&what, value)?),
            ("esp", "rekey_time") => Setting::EspRekeyTime(time(REKEY)?),
            ("esp", "over_time") => Setting::EspOverTime(time(OVER)?),
            ("esp", "replay_window") => {
                Setting::ReplayWindow(self.number(&what, value, replay_window)?)
            }
            ("esp", "hw_offload") => Setting::HwOffload(self.word(&what, value, &OFFLOADS)?),
            ("esp", "policies_fwd_out") => Setting::PoliciesFwdOut(self.flag(&what, value)?),
            ("esp", "mode") => Setting::Mode(self.word(&what, value, &MODES)?),
            ("esp", "per_cpu_sas") => {
                if self.flag(&what, value)? {
                    self.wrong(place, PER_CPU.to_owned());
                }
                return None;
            }
            ("ike", _) => {
                let check = values::ike_proposal;
                Setting::IkeProposals(self.proposals(&what, value, IKE_PROPOSAL, check))
            }
            (_, _) => {
                let check = values::esp_proposal;
                Setting::EspProposals(self.proposals(&what, value, ESP_PROPOSAL, check))
            }
        };
        Some(At {
            value: setting,
            place,
        })
    }

    fn word(
        &mut self,
        what: &str,
        value: &Value<'t>,
        words: &[&'static str],
    ) -> Option<&'static str> {
        let parse = |text: &str| {
            let known = words.iter().copied().find(|word| *word == text);
            known.ok_or_else(|| format!("{what} is {}: one of {}", quote(text), words.join(", ")))
        };
        self.text(what, value, parse).map(|word| word.value)
    }

    fn proposals(
        &mut self,
        what: &str,
        value: &Value<'t>,
        default: &str,
        check: fn(&str) -> Result<String, String>,
    ) -> Vec<String> {
        let cure = format!("leave it out for {default:?}");
        let written = self.array(what, value, 16, Some(&cure));
        let read = |value| self.text(what, value, check);
        let read = written.into_iter().filter_map(read);
        read.map(|proposal| proposal.value).collect()
    }
}

/// "90s", "10m", "4h", "1d".
fn seconds(what: &str, text: &str, range: &RangeInclusive<u32>) -> Result<u32, String> {
    let units = [("s", 1), ("m", MINUTE), ("h", 60 * MINUTE), ("d", DAY)];
    let split = units
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
    let parsed = split.and_then(|(number, unit)| {
        let number: u32 = number.trim_end().parse().ok()?;
        number.checked_mul(*unit)
    });
    parsed.filter(|it| range.contains(it)).ok_or_else(|| {
        format!(
            "{what} is {}: from {:?} to {:?}, like \"90s\", \"10m\", \"4h\" or \"1d\"",
            quote(text),
            words(*range.start()),
            words(*range.end())
        )
    })
}

/// A time in the largest unit that fits.
fn words(seconds: u32) -> String {
    match seconds {
        _ if seconds.is_multiple_of(DAY) => format!("{}d", seconds / DAY),
        _ if seconds.is_multiple_of(60 * MINUTE) => format!("{}h", seconds / (60 * MINUTE)),
        _ if seconds.is_multiple_of(MINUTE) => format!("{}m", seconds / MINUTE),
        _ => format!("{seconds}s"),
    }
}

fn replay_window(packets: u64) -> Result<u32, String> {
    let window = u32::try_from(packets).ok();
    window.filter(|it| WINDOW.contains(it)).ok_or_else(|| {
        format!(
            "esp.replay_window is {packets}: how many packets may overtake each other, 32 to 4096"
        )
    })
}
