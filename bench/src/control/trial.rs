//! One size of mesh: a controller, its agents, and the figures.

use super::fleet::Fleet;
use super::mesh::{name, specification};
use super::table::Figure;
use crate::error::{Error, Result};
use crate::process::{Daemon, run, sibling};
use nix::sys::signal::Signal;
use prost::Message;
use routemesh_proto::operators_client::OperatorsClient;
use routemesh_proto::{ApplyRequest, GetTopologyRequest, Identity, PlanRequest};
use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tonic::transport::Channel;

/// Nothing here takes longer, unless it does not come to an end.
const LIMIT: Duration = Duration::from_secs(240);
/// Joins and leaves, of which the median is told.
const ROUNDS: usize = 5;
/// Reports a second, and for how long.
const REPORTS: (u32, Duration) = (1_000, Duration::from_secs(20));

/// What to measure of a size.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Memory, reports, restart and topology too, which take a while.
    pub all: bool,
}

/// A mesh of so many gateways, one of which comes and goes.
pub struct Trial {
    /// They are even, so that one more has a site of its own, and one less leaves a site.
    pub gateways: usize,
    /// Where identities are kept from one trial to the next.
    pub dir: PathBuf,
}

struct Controller {
    daemon: Daemon,
    program: PathBuf,
    dir: PathBuf,
    listen: String,
    operators: OperatorsClient<Channel>,
    generation: u64,
}

impl Trial {
    /// Runs it; `tell` hears each figure.
    pub async fn run(&self, wanted: Wanted, mut tell: impl FnMut(Figure, f64)) -> Result<()> {
        let identities = self.identities()?;
        let mut controller = self.controller()?;
        let last = self.gateways - 1;
        // All but one, whose site is there without it.
        let url = controller.url();
        let mut fleet = Fleet::new(last, &url, &identities)?;
        controller.apply(&specification(last)).await?;
        fleet.expect(controller.generation);
        let began = Instant::now();
        fleet.attach();
        let came = fleet.all(LIMIT).await?;
        tell(Figure::Start, (came - began).as_secs_f64());

        let mut times = [const { Vec::new() }; 4];
        for _ in 0..ROUNDS {
            let [join, work, leave, site] = &mut times;
            // Into a site that is there, and out again.
            let (took, busy) = controller.change(&fleet, last + 1).await?;
            join.push(took);
            work.push(busy);
            leave.push(controller.change(&fleet, last).await?.0);
            // With a new site, which everybody is told of.
            controller.change(&fleet, last + 1).await?;
            site.push(controller.change(&fleet, last + 2).await?.0);
            controller.change(&fleet, last).await?;
        }
        let figures = [
            Figure::Join,
            Figure::JoinWork,
            Figure::Leave,
            Figure::JoinSite,
        ];
        for (figure, times) in figures.into_iter().zip(times) {
            tell(figure, median(times));
        }
        if !wanted.all {
            return Ok(());
        }

        fleet.settle().await?;
        fleet.report_all().await;
        controller.calm().await?;
        let [resident, _] = controller.daemon.resident()?;
        tell(Figure::Memory, resident as f64 / 1e6);

        let (took, size) = controller.topology(GetTopologyRequest::default()).await?;
        tell(Figure::Topology, took);
        tell(Figure::TopologySize, size as f64 / 1e6);
        let gateways_only = GetTopologyRequest {
            gateways_only: true,
            ..GetTopologyRequest::default()
        };
        tell(
            Figure::Gateways,
            controller.topology(gateways_only).await?.0,
        );
        tell(Figure::Plan, controller.plan(last + 1).await?);

        let (before, began) = (controller.daemon.busy()?, Instant::now());
        let (rate, span) = REPORTS;
        let said = fleet.report(rate, span).await;
        controller.calm().await?;
        let busy = controller.daemon.busy()? - before;
        eprint!(
            " ({said} reports in {:.1} s)",
            began.elapsed().as_secs_f64()
        );
        // What was worked off after the last one counts as well.
        let share = busy.as_secs_f64() / span.as_secs_f64() * f64::from(rate)
            / (said as f64 / span.as_secs_f64());
        tell(Figure::Reports, share * 100.0);

        let began = Instant::now();
        controller.restart()?;
        controller.attached(last).await?;
        tell(Figure::Restart, began.elapsed().as_secs_f64());
        controller.calm().await?;
        let [resident, _] = controller.daemon.resident()?;
        eprintln!(" after that {:.0} MB", resident as f64 / 1e6);
        Ok(())
    }

    fn identities(&self) -> Result<PathBuf> {
        let program = sibling("mesh-controller")?.display().to_string();
        let dir = self.dir.join("controller").display().to_string();
        let identities = self.dir.join("identities");
        fs::create_dir_all(&identities).map_err(Error::io("make a directory"))?;
        if !self.dir.join("controller/cert.pem").exists() {
            run(&program, &["init", "--dir", &dir])?;
        }
        let names = (0..self.gateways + 1).map(|number| ("--gateway", name(number)));
        for (role, name) in names.chain([("--operator", "operator".to_owned())]) {
            let out = identities.join(&name);
            if !out.exists() {
                let out = out.display().to_string();
                run(
                    &program,
                    &["issue", "--dir", &dir, role, &name, "--out", &out],
                )?;
            }
        }
        Ok(identities)
    }

    fn controller(&self) -> Result<Controller> {
        let dir = self.dir.join("controller");
        let files = fs::read_dir(&dir).map_err(Error::io("the controller's directory"))?;
        for file in files.flatten() {
            if file.file_name().to_string_lossy().starts_with("mesh.db") {
                fs::remove_file(file.path()).map_err(Error::io("an earlier mesh"))?;
            }
        }
        let free = TcpListener::bind("[::1]:0").map_err(Error::io("a port"))?;
        let listen = free.local_addr().map_err(Error::io("a port"))?.to_string();
        drop(free);
        let program = sibling("mesh-controller")?;
        let wrong = |error| Error::Wrong(format!("the operator's identity: {error}"));
        let operator = self.dir.join("identities/operator");
        let channel = Identity::load(&operator)
            .and_then(|it| it.dial(&format!("https://{listen}")))
            .map_err(wrong)?;
        let operators = OperatorsClient::new(channel).max_decoding_message_size(1 << 30);
        let daemon = start(&program, &dir, &listen)?;
        Ok(Controller {
            daemon,
            program,
            dir,
            listen,
            operators,
            generation: 0,
        })
    }
}

fn start(program: &Path, dir: &Path, listen: &str) -> Result<Daemon> {
    let mut command = Command::new(program);
    command.args(["run", "--listen", listen, "--dir"]).arg(dir);
    // As its unit has it.
    command.env("MALLOC_ARENA_MAX", "2");
    Daemon::start("mesh-controller", command, dir)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Controller {
    fn url(&self) -> String {
        format!("https://{}", self.listen)
    }

    /// Puts a specification in force; tries again while the controller is not there yet.
    async fn apply(&mut self, text: &str) -> Result<()> {
        let began = Instant::now();
        loop {
            self.daemon.check()?;
            let request = ApplyRequest {
                text: text.to_owned(),
                file: "mesh.toml".to_owned(),
                ..ApplyRequest::default()
            };
            match self.operators.apply(request).await {
                Ok(reply) => {
                    self.generation = reply.into_inner().generation;
                    return Ok(());
                }
                Err(status)
                    if status.code() == tonic::Code::Unavailable && began.elapsed() < LIMIT =>
                {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(status) => return Err(Error::Wrong(format!("apply: {status}"))),
            }
        }
    }

    /// A mesh of so many gateways: seconds until the whole fleet has it, and of the controller's work for it.
    async fn change(&mut self, fleet: &Fleet, gateways: usize) -> Result<(f64, f64)> {
        let text = specification(gateways);
        self.calm().await?;
        fleet.expect(self.generation + 1);
        let (began, before) = (Instant::now(), self.daemon.busy()?);
        self.apply(&text).await?;
        let took = fleet.all(LIMIT).await? - began;
        let busy = self.daemon.busy()? - before;
        Ok((took.as_secs_f64(), busy.as_secs_f64()))
    }

    /// Waits until the controller does nothing any more.
    async fn calm(&mut self) -> Result<()> {
        const LOOK: Duration = Duration::from_millis(300);
        let began = Instant::now();
        let mut before = self.daemon.busy()?;
        while began.elapsed() < LIMIT {
            self.daemon.check()?;
            tokio::time::sleep(LOOK).await;
            let now = self.daemon.busy()?;
            if now.saturating_sub(before) < LOOK / 20 {
                return Ok(());
            }
            before = now;
        }
        Err(Error::Timeout {
            what: "the controller is always busy".to_owned(),
            after: LIMIT,
        })
    }

    /// Seconds, and octets.
    async fn topology(&mut self, wanted: GetTopologyRequest) -> Result<(f64, usize)> {
        let began = Instant::now();
        let topology = self.operators.get_topology(wanted).await;
        let topology = topology.map_err(|status| Error::Wrong(format!("topology: {status}")))?;
        let (took, topology) = (began.elapsed(), topology.into_inner());
        match topology.gateways.is_empty() {
            false => Ok((took.as_secs_f64(), topology.encoded_len())),
            true => Err(Error::Wrong("a topology without gateways".to_owned())),
        }
    }

    /// Seconds until it is known what a mesh of so many gateways changes.
    async fn plan(&mut self, gateways: usize) -> Result<f64> {
        let request = PlanRequest {
            text: specification(gateways),
            file: "mesh.toml".to_owned(),
        };
        let began = Instant::now();
        let plan = self.operators.get_plan(request).await;
        let plan = plan.map_err(|status| Error::Wrong(format!("plan: {status}")))?;
        let took = began.elapsed().as_secs_f64();
        match plan.into_inner().gateways.len() == gateways - 1 {
            true => Ok(took),
            false => Err(Error::Wrong("a plan of other gateways".to_owned())),
        }
    }

    fn restart(&mut self) -> Result<()> {
        self.daemon.signal(Signal::SIGKILL)?;
        // The one before is gone once it is replaced; the store can be had only then.
        let deadline = Instant::now() + LIMIT;
        while self.daemon.check().is_ok() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.daemon = start(&self.program, &self.dir, &self.listen)?;
        Ok(())
    }

    /// Waits until so many have attached that need nothing.
    async fn attached(&mut self, wanted: usize) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < LIMIT {
            self.daemon.check()?;
            let said = self.daemon.said();
            let attached = said.lines().filter(|line| line.contains(" attached: "));
            let current: BTreeSet<&str> = attached
                .filter(|line| !line.ends_with("not current") && !line.ends_with("behind"))
                .filter_map(|line| line.split(" attached: ").next()?.split(' ').next_back())
                .collect();
            if current.len() >= wanted {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(Error::Timeout {
            what: "not all agents are back and current".to_owned(),
            after: LIMIT,
        })
    }
}
