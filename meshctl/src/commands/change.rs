//! What changes the mesh.

use crate::client::{CallError, Client};
use crate::failure::Failure;
use crate::input::read;
use crate::output::print;
use crate::table::count;
use clap::Args;
use routemesh_proto::{ApplyReply, DrainRequest};
use std::path::Path;

#[derive(Args, Clone)]
pub(crate) struct Drain {
    /// The gateway.
    gateway: String,
    /// Only its tunnels to this gateway.
    peer: Option<String>,
}

pub(crate) async fn apply(client: &Client, file: &Path) -> Result<(), Failure> {
    let (name, text) = read(file)?;
    let reply = client
        .apply(name, text)
        .await
        .map_err(|error| match error {
            CallError::Invalid(text) => Failure::Spec(text),
            other => other.into(),
        })?;
    print(&format!("{}\n", applied(&reply)))
}

fn applied(reply: &ApplyReply) -> String {
    if reply.unchanged {
        return format!("unchanged (generation {})", reply.generation);
    }
    format!(
        "generation {}: {}, {}, {}",
        reply.generation,
        count(reply.sites, "site"),
        count(reply.gateways, "gateway"),
        count(reply.tunnels, "tunnel")
    )
}

pub(crate) async fn drain(client: &Client, what: Drain, undo: bool) -> Result<(), Failure> {
    let Drain { gateway, peer } = what;
    let request = DrainRequest {
        gateway,
        peer: peer.unwrap_or_default(),
        undo,
    };
    let reply = client.drain(request).await?;
    let unchanged = if reply.unchanged { "unchanged, " } else { "" };
    print(&format!("{unchanged}generation {}\n", reply.generation))
}
