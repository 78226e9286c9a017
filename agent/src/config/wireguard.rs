//! What is other in a WireGuard tunnel.

use super::{ConfigError, Fields};
use routemesh_proto as proto;
use routemesh_proto::PublicKey;
use std::net::{IpAddr, SocketAddr};

/// One end of a WireGuard tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireGuard {
    /// Outer address and port of this end.
    pub local: SocketAddr,
    /// Outer address and port of the far end.
    pub remote: SocketAddr,
    /// The far gateway's key; `None` while it has not told it.
    pub peer: Option<PublicKey>,
}

pub(super) fn parse(
    fields: &Fields,
    raw: &proto::Tunnel,
    here: &str,
) -> Result<WireGuard, ConfigError> {
    let Some(given) = &raw.wireguard else {
        return Err(fields.wrong("wireguard", "", "what a tunnel of this kind has"));
    };
    let address = |field, text: &str| -> Result<IpAddr, ConfigError> {
        fields.parse(field, text, "a literal address, which WireGuard needs")
    };
    let local = address("local_endpoint", here)?;
    let remote = address("remote_endpoint", &raw.remote_endpoint)?;
    if local.is_ipv4() != remote.is_ipv4() {
        let expected = "of the same family as local_endpoint";
        return Err(fields.wrong("remote_endpoint", &raw.remote_endpoint, expected));
    }
    let port = |field, port: u32| match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(fields.wrong(field, &port.to_string(), "1 to 65535")),
    };
    Ok(WireGuard {
        local: (local, port("listen_port", given.listen_port)?).into(),
        remote: (remote, port("remote_port", given.remote_port)?).into(),
        peer: match given.public_key.as_str() {
            "" => None,
            text => Some(fields.parse("public_key", text, "a key as `wg pubkey` writes it")?),
        },
    })
}
