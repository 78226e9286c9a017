//! What only looks.

use super::unless;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, show};
use crate::table::{self, Look};
use crate::{mtu as reckon, tunnels as ends};
use clap::Args;
use routemesh_proto::GetTopologyRequest;
use std::process::ExitCode;

#[derive(Args)]
pub(crate) struct Whole {
    /// Only what is of this gateway.
    #[arg(long, value_name = "NAME")]
    gateway: Option<String>,
    /// Only what is of the gateways of this site.
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct Routes {
    /// Its name.
    gateway: String,
    /// Show its BGP peers, and what they announced that is not used, and why.
    #[arg(long)]
    rejected: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct Mtu {
    /// In strongSwan's words, as in `proposals` of `[mesh.esp]`.
    #[arg(default_value = "aes256gcm16-ecp384")]
    proposals: Vec<String>,
    /// MTU of the path between the endpoints.
    #[arg(long, value_name = "BYTES", default_value = "1500", value_parser = clap::value_parser!(u32).range(68..=65535))]
    path: u32,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn topology(
    client: &Client,
    args: Whole,
    look: Look,
) -> Result<ExitCode, Failure> {
    let request = GetTopologyRequest {
        gateway: args.gateway.unwrap_or_default(),
        site: args.site.unwrap_or_default(),
        gateways_only: false,
    };
    let topology = client.topology(request).await?;
    show(args.output.output, &topology, |topology| {
        table::topology(topology, look)
    })?;
    let (up, all) = table::up_and_all(&topology);
    Ok(unless(up < all))
}

/// No tunnels, of which there may be millions.
fn gateways_only() -> GetTopologyRequest {
    GetTopologyRequest {
        gateways_only: true,
        ..GetTopologyRequest::default()
    }
}

pub(crate) async fn gateways(
    client: &Client,
    Output { output }: Output,
    look: Look,
) -> Result<(), Failure> {
    let gateways = client.topology(gateways_only()).await?.gateways;
    show(output, &gateways, |gateways| {
        table::gateways(gateways, look)
    })
}

pub(crate) async fn tunnels(
    client: &Client,
    gateway: Option<String>,
    Output { output }: Output,
    look: Look,
) -> Result<(), Failure> {
    let request = GetTopologyRequest {
        gateway: gateway.clone().unwrap_or_default(),
        ..GetTopologyRequest::default()
    };
    let topology = client.topology(request).await?;
    let ends = ends::ends(&topology, gateway.as_deref());
    show(output, &ends, |ends| table::tunnels(ends, look))
}

pub(crate) async fn routes(client: &Client, args: Routes, look: Look) -> Result<(), Failure> {
    let routes = client.routes(args.gateway).await?;
    show(args.output.output, &routes, |routes| match args.rejected {
        true => table::rejected(routes, look),
        false => table::routes(routes, look),
    })
}

pub(crate) async fn doctor(
    client: &Client,
    gateway: String,
    Output { output }: Output,
    look: Look,
) -> Result<ExitCode, Failure> {
    let gateways = client.topology(gateways_only()).await?.gateways;
    let mut named = gateways.into_iter().filter(|it| it.name == gateway);
    let view = named.next().ok_or(Failure::NoGateway(gateway))?;
    show(output, &view, |view| table::doctor(view, look))?;
    let fails = view.findings.iter().any(|it| it.severity == "fails");
    Ok(unless(fails || view.verdict != "ok"))
}

/// Needs no controller.
pub(crate) fn mtu(args: Mtu, look: Look) -> Result<(), Failure> {
    let sizes = reckon::sizes(&args.proposals, args.path)?;
    show(args.output.output, &sizes, |sizes| table::mtu(sizes, look))
}
