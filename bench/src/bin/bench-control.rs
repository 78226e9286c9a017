//! `bench-control`: the control plane at size. It writes the tables of `docs/bench.md` that are about it.

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use routemesh_bench::control::plot::plot;
use routemesh_bench::control::table::{Figure, Figures};
use routemesh_bench::control::trial::{Trial, Wanted};
use routemesh_bench::machine;
use routemesh_bench::page;
use routemesh_bench::process::{run as run_program, sibling};
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures a controller with simulated agents, on this machine.
#[derive(Parser)]
struct Args {
    /// Numbers of gateways.
    #[arg(long, value_delimiter = ',', default_values = ["250", "500", "1000", "2000"])]
    gateways: Vec<usize>,
    /// Only what grows with the mesh: joining and leaving.
    #[arg(long)]
    joins: bool,
    /// Where certificates are kept for the next time; they are made anew otherwise.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Directory with bench.md, bench-control.tsv and bench-control.svg, to be written to. What is not measured
    /// now stays.
    #[arg(long)]
    docs: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-control: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    // A connection is a file, and the controller's limit is inherited from here.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let temporary = tempfile::tempdir()?;
    let dir = args.dir.clone().unwrap_or(temporary.path().to_owned());
    let lines = args
        .docs
        .as_ref()
        .map(|docs| docs.join("bench-control.tsv"));
    let kept = lines.as_ref().map(fs::read_to_string);
    let mut figures = Figures::read(&kept.and_then(Result::ok).unwrap_or_default());
    let runtime = tokio::runtime::Runtime::new()?;
    for &gateways in &args.gateways {
        if gateways < 4 || gateways % 2 != 0 {
            return Err("an even number of gateways, at least 4".into());
        }
        eprint!("{gateways} gateways:");
        let mut tell = |figure: Figure, value| {
            eprint!(" {figure} {};", figure.text(value));
            figures.set(figure, gateways, value);
        };
        let program = sibling("examples/render")?.display().to_string();
        let rendered = run_program(&program, &[&gateways.to_string()])?;
        tell(Figure::Render, rendered.trim().parse()?);
        let trial = Trial {
            gateways,
            dir: dir.clone(),
        };
        let wanted = Wanted { all: !args.joins };
        runtime.block_on(trial.run(wanted, &mut tell))?;
        eprintln!();
    }
    let text = format!("{}\n{}\n", figures.table(), machine::describe());
    println!("{text}");
    if let (Some(docs), Some(lines)) = (&args.docs, lines) {
        fs::write(lines, figures.lines())?;
        if let Some(picture) = plot(&figures) {
            fs::write(docs.join("bench-control.svg"), picture)?;
        }
        let path = docs.join("bench.md");
        let page = fs::read_to_string(&path)?;
        let page = page::replace(&page, "control", &text)
            .ok_or_else(|| format!("{} has no marks for the table control", path.display()))?;
        fs::write(path, page)?;
    }
    Ok(())
}
