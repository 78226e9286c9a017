//! What only looks.

use super::unless;
use crate::client::Client;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Output, json, print, put, show};
use crate::picture::{self, Picture};
use crate::state::State;
use crate::table::{self, Look};
use crate::watch::watch;
use crate::{mtu as reckon, tunnels as ends};
use clap::{Args, Subcommand, ValueEnum};
use routemesh_proto::GetTopologyRequest;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum View {
    /// Show every tunnel from both ends, and every prefix with its paths; or a picture of the mesh.
    ///
    /// An edge is up only if both ends say so, and lately.
    #[command(
        after_help = "Exit status: 0 if every tunnel that was asked for is up, 2 if one is not, 1 on errors."
    )]
    Topology(Whole),
    /// List things.
    #[command(subcommand)]
    Get(Get),
    /// Show the routes of one gateway.
    Routes(Routes),
    /// Reckon the MTU of a tunnel from its ESP proposal. Needs no controller.
    Mtu(Mtu),
}

#[derive(Subcommand)]
pub(crate) enum Get {
    /// Every gateway, its generation and what is wrong there.
    Gateways(Output),
    /// Every tunnel's ends: addresses outside and inside, sessions, MTU, and what its SAs are known by.
    Tunnels {
        /// Only the ends at this gateway.
        gateway: Option<String>,
        #[command(flatten)]
        output: Output,
    },
}

impl View {
    pub(crate) async fn run(self, context: &Context, look: Look) -> Result<ExitCode, Failure> {
        let client = || context.client();
        match self {
            Self::Topology(args) if args.watch => watch(client()?, args.request(), look).await?,
            Self::Topology(args) => return topology(&client()?, args, look).await,
            Self::Get(Get::Gateways(output)) => gateways(&client()?, output, look).await?,
            Self::Get(Get::Tunnels { gateway, output }) => {
                tunnels(&client()?, gateway, output, look).await?;
            }
            Self::Routes(args) => routes(&client()?, args, look).await?,
            Self::Mtu(args) => mtu(args, look)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Args)]
pub(crate) struct Whole {
    /// Only what is of this gateway.
    #[arg(long, value_name = "NAME")]
    gateway: Option<String>,
    /// Only what is of the gateways of this site.
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// Only tunnels in this state, several with commas between.
    #[arg(long, value_enum, value_name = "STATE", value_delimiter = ',')]
    state: Vec<State>,
    /// A table for people, JSON for programs, or a picture: SVG, or for graphviz (dot) or Mermaid.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Form,
    /// Live, on the whole screen, until q is pressed; ? lists the keys.
    #[arg(long, conflicts_with = "output")]
    watch: bool,
}

impl Whole {
    fn request(&self) -> GetTopologyRequest {
        GetTopologyRequest {
            gateway: self.gateway.clone().unwrap_or_default(),
            site: self.site.clone().unwrap_or_default(),
            gateways_only: false,
            states: self.state.iter().map(|it| it.name().to_owned()).collect(),
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Table,
    Json,
    Dot,
    Mermaid,
    Svg,
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

async fn topology(client: &Client, args: Whole, look: Look) -> Result<ExitCode, Failure> {
    let topology = client.topology(args.request()).await?;
    let states = match args.state.as_slice() {
        [] => &State::ALL,
        asked => asked,
    };
    match args.output {
        Form::Table => print(&table::topology(&topology, states, look))?,
        Form::Json => put(&json(&topology)?)?,
        Form::Dot => put(&picture::dot(&Picture::of(&topology)))?,
        Form::Mermaid => put(&picture::mermaid(&Picture::of(&topology)))?,
        Form::Svg => put(&picture::svg(&Picture::of(&topology)))?,
    }
    let counts = table::counts(&topology);
    let mut asked = states.iter().filter(|it| **it != State::Up);
    Ok(unless(asked.any(|it| it.counted(&counts) > 0)))
}

/// No tunnels, of which there may be millions.
fn gateways_only() -> GetTopologyRequest {
    GetTopologyRequest {
        gateways_only: true,
        ..GetTopologyRequest::default()
    }
}

async fn gateways(client: &Client, Output { output }: Output, look: Look) -> Result<(), Failure> {
    let gateways = client.topology(gateways_only()).await?.gateways;
    show(output, &gateways, |gateways| {
        table::gateways(gateways, look)
    })
}

async fn tunnels(
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

async fn routes(client: &Client, args: Routes, look: Look) -> Result<(), Failure> {
    let routes = client.routes(args.gateway).await?;
    show(args.output.output, &routes, |routes| match args.rejected {
        true => table::rejected(routes, look),
        false => table::routes(routes, look),
    })
}

/// Needs no controller.
fn mtu(args: Mtu, look: Look) -> Result<(), Failure> {
    let sizes = reckon::sizes(&args.proposals, args.path)?;
    show(args.output.output, &sizes, |sizes| table::mtu(sizes, look))
}
