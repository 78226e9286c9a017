//! How a tunnel's SAs are made and kept, as the config has it.

use super::{ConfigError, Fields};
use routemesh_proto::{self as proto, ESP_PROPOSAL, IKE_PROPOSAL};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Of the IKE_SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeOptions {
    /// In strongSwan's words, the first is preferred.
    pub proposals: Vec<String>,
    /// It gets new keys after this, on the side that initiates.
    pub rekey_time: Duration,
    /// It is made anew after this, if at all.
    pub reauth_time: Option<Duration>,
    /// It lives on for so long when that does not succeed, if it is given.
    pub over_time: Option<Duration>,
    /// The peer is asked for a sign of life after so much silence.
    pub dpd_delay: Duration,
    /// The SAs follow addresses that change (RFC 4555).
    pub mobike: bool,
}

/// Of the CHILD_SAs, which are ESP's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EspOptions {
    /// In strongSwan's words, the first is preferred.
    pub proposals: Vec<String>,
    /// They get new keys after this, on the side that initiates.
    pub rekey_time: Duration,
    /// They live on for so long when that does not succeed, if it is given.
    pub over_time: Option<Duration>,
    /// Packets that may overtake each other.
    pub replay_window: u32,
    /// Who encrypts.
    pub hw_offload: Offload,
    /// Policies also for what is forwarded outwards.
    pub policies_fwd_out: bool,
    /// Packets share and fill ESP packets (RFC 9347).
    pub iptfs: bool,
}

/// Work that the network interface does instead of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// None.
    No,
    /// It encrypts.
    Crypto,
    /// It does all of ESP.
    Packet,
    /// What it can.
    Auto,
}

impl Default for IkeOptions {
    fn default() -> Self {
        Self {
            proposals: vec![IKE_PROPOSAL.to_owned()],
            rekey_time: Duration::from_secs(4 * 3600),
            reauth_time: None,
            over_time: None,
            dpd_delay: Duration::from_secs(10),
            mobike: false,
        }
    }
}

impl Default for EspOptions {
    fn default() -> Self {
        Self {
            proposals: vec![ESP_PROPOSAL.to_owned()],
            rekey_time: Duration::from_secs(3600),
            over_time: None,
            // strongSwan's 32 are too few for two busy processors.
            replay_window: 512,
            hw_offload: Offload::No,
            policies_fwd_out: false,
            iptfs: false,
        }
    }
}

/// Seconds. More than that is a slip of the pen, and charon's clocks are 32 bits.
const TIME: RangeInclusive<u32> = 1..=366 * 86_400;

fn time(
    fields: &Fields,
    field: &'static str,
    seconds: Option<u32>,
) -> Result<Option<Duration>, ConfigError> {
    match seconds {
        None => Ok(None),
        Some(seconds) if TIME.contains(&seconds) => Ok(Some(Duration::from_secs(seconds.into()))),
        Some(other) => Err(fields.wrong(field, &other.to_string(), "1 second to 366 days")),
    }
}

fn proposals(given: &[String], default: Vec<String>) -> Vec<String> {
    match given {
        [] => default,
        given => given.to_vec(),
    }
}

pub(super) fn ike(
    fields: &Fields,
    raw: Option<&proto::IkeOptions>,
) -> Result<IkeOptions, ConfigError> {
    let default = IkeOptions::default();
    let Some(raw) = raw else { return Ok(default) };
    let rekey_time = time(fields, "ike.rekey_time", raw.rekey_time)?;
    let dpd_delay = time(fields, "ike.dpd_delay", raw.dpd_delay)?;
    Ok(IkeOptions {
        proposals: proposals(&raw.proposals, default.proposals),
        rekey_time: rekey_time.unwrap_or(default.rekey_time),
        reauth_time: time(fields, "ike.reauth_time", raw.reauth_time)?,
        over_time: time(fields, "ike.over_time", raw.over_time)?,
        dpd_delay: dpd_delay.unwrap_or(default.dpd_delay),
        mobike: raw.mobike.unwrap_or(default.mobike),
    })
}

pub(super) fn esp(
    fields: &Fields,
    raw: Option<&proto::EspOptions>,
) -> Result<EspOptions, ConfigError> {
    let default = EspOptions::default();
    let Some(raw) = raw else { return Ok(default) };
    let rekey_time = time(fields, "esp.rekey_time", raw.rekey_time)?;
    let hw_offload = match raw.hw_offload.as_deref() {
        None => default.hw_offload,
        Some("no") => Offload::No,
        Some("crypto") => Offload::Crypto,
        Some("packet") => Offload::Packet,
        Some("auto") => Offload::Auto,
        Some(other) => {
            return Err(fields.wrong("esp.hw_offload", other, "no, crypto, packet or auto"));
        }
    };
    let iptfs = match raw.mode.as_deref() {
        None => default.iptfs,
        Some("tunnel") => false,
        Some("iptfs") => true,
        Some(other) => return Err(fields.wrong("esp.mode", other, "tunnel or iptfs")),
    };
    let replay_window = match raw.replay_window {
        // Interfaces that do all of ESP take no more.
        None if hw_offload == Offload::Packet => 256,
        None => default.replay_window,
        Some(window @ 32..=4096) => window,
        Some(other) => {
            let other = other.to_string();
            return Err(fields.wrong("esp.replay_window", &other, "32 to 4096 packets"));
        }
    };
    Ok(EspOptions {
        proposals: proposals(&raw.proposals, default.proposals),
        rekey_time: rekey_time.unwrap_or(default.rekey_time),
        over_time: time(fields, "esp.over_time", raw.over_time)?,
        replay_window,
        hw_offload,
        policies_fwd_out: raw.policies_fwd_out.unwrap_or(default.policies_fwd_out),
        iptfs,
    })
}
