//! `bench`: runs the benchmark, prints its tables and writes them into the page that quotes them.

use clap::{Parser, ValueEnum};
use routemesh_bench::error::Error;
use routemesh_bench::far::Timers;
use routemesh_bench::lab;
use routemesh_bench::machine;
use routemesh_bench::many::Many;
use routemesh_bench::page;
use routemesh_bench::prefix::{Family, MOST};
use routemesh_bench::process::{catch_signals, run as run_program, sibling};
use routemesh_bench::report::{Figure, Key, Samples, thousands};
use routemesh_bench::silence::Silence;
use routemesh_bench::subject::Subject;
use routemesh_bench::trial::Trial;
use std::error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Numbers of prefixes behind a peer that falls silent, milliseconds between packets of BFD, and rounds at
/// most.
const SILENCES: [(u32, &[u32], usize); 2] = [(1, &[100, 50], 5), (100_000, &[100], 3)];
/// Peers that do nothing, and who has them.
const PEERS: u32 = 500;
const IDLERS: [Subject; 2] = [Subject::Routemesh, Subject::Bird];
/// Speakers of the simulation.
const SPEAKERS: &str = "500";

/// Measures the agent beside BIRD 2 and FRR, in namespaces of this machine's kernel. Needs root.
#[derive(Parser)]
struct Args {
    /// Which tables.
    #[arg(long = "only", value_delimiter = ',',
          default_values = ["routes", "failover", "many", "codec", "simulation"])]
    tables: Vec<Table>,
    /// Rounds; every subject once in each.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Numbers of prefixes, each with rounds of its own if wanted: 1000000x2.
    #[arg(long = "n", value_delimiter = ',', default_values = ["1000", "100000", "1000000"],
          value_parser = size)]
    sizes: Vec<Size>,
    /// Address families.
    #[arg(long = "family", value_delimiter = ',', default_values = ["ipv4", "ipv6"])]
    families: Vec<Family>,
    /// Who is measured.
    #[arg(long = "subject", value_delimiter = ',',
          default_values = ["routemesh", "bird", "frr", "raw"])]
    subjects: Vec<Subject>,
    /// FRR with 1,000,000 prefixes too, which takes many minutes a round.
    #[arg(long)]
    all: bool,
    /// Directory with bench.md and bench.tsv, to be written to.
    #[arg(long)]
    docs: Option<PathBuf>,
}

/// How many prefixes, and for how many rounds if not for as many as the others.
#[derive(Clone, Copy)]
struct Size {
    count: u32,
    rounds: Option<usize>,
}

fn size(text: &str) -> Result<Size, String> {
    let (count, rounds) = match text.split_once('x') {
        Some((count, rounds)) => (count, Some(rounds)),
        None => (text, None),
    };
    let wrong =
        || format!("a number of prefixes from 1 to {MOST}, or that, x and a number of rounds");
    let count = count
        .parse()
        .ok()
        .filter(|count| (1..=MOST).contains(count));
    let rounds = rounds.map(str::parse).transpose().map_err(|_| wrong())?;
    let count = count.ok_or_else(wrong)?;
    Ok(Size { count, rounds })
}

/// The tables of the page, each between marks of its name.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Table {
    /// Daemons: installing, withdrawing, losing a peer, memory.
    Routes,
    /// Daemons with BFD, idle and when a peer falls silent.
    Failover,
    /// Daemons with 500 idle peers.
    Many,
    /// UPDATEs from bytes and to bytes, beside other crates.
    Codec,
    /// 500 speakers in one process.
    Simulation,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn error::Error>> {
    catch_signals()?;
    lab::sweep()?;
    for table in &args.tables {
        let (name, text) = match table {
            Table::Routes => {
                let samples = routes(args)?;
                if let Some(docs) = &args.docs {
                    fs::write(docs.join("bench.tsv"), samples.lines())?;
                }
                ("routes", with_rounds(&samples))
            }
            Table::Failover => ("failover", with_rounds(&failover(args)?)),
            Table::Many => ("many", with_rounds(&many(args)?)),
            Table::Codec => {
                eprintln!("codec: a minute");
                ("codec", output("codec", &[])?)
            }
            Table::Simulation => {
                eprintln!("simulation: some minutes");
                let said = output("examples/simulate", &[SPEAKERS])?;
                let lines = said.lines().map(|line| format!("- {line}\n"));
                ("simulation", lines.collect())
            }
        };
        println!("{text}");
        if let Some(docs) = &args.docs {
            write(docs, name, &text)?;
        }
    }
    Ok(())
}

/// A table, and what stands beneath it.
fn with_rounds(samples: &Samples) -> String {
    let (table, rounds, machine) = (samples.table(), samples.rounds(), machine::describe());
    format!("{table}\nMedians of {rounds}. {machine}\n")
}

/// What a program of this build prints.
fn output(program: &str, arguments: &[&str]) -> Result<String, Error> {
    run_program(&sibling(program)?.display().to_string(), arguments)
}

/// All trials, the subjects taking turns.
fn routes(args: &Args) -> Result<Samples, Error> {
    let mut samples = Samples::default();
    for &Size { count, rounds } in &args.sizes {
        let rounds = rounds.unwrap_or(args.rounds);
        for round in 1..=rounds {
            for &family in &args.families {
                for &subject in &args.subjects {
                    if subject == Subject::Frr && count > 100_000 && !args.all {
                        continue;
                    }
                    let trial = Trial {
                        subject,
                        family,
                        count,
                        deadline: deadline(count),
                    };
                    let key = |figure| Key {
                        figure,
                        family,
                        count,
                        subject,
                    };
                    eprint!(
                        "round {round}/{rounds} {} {family} {subject}:",
                        thousands(count)
                    );
                    let run = |tell: &mut dyn FnMut(Figure, f64)| trial.run(tell);
                    one(run, Figure::of(subject), key, &mut samples)?;
                }
            }
        }
    }
    Ok(samples)
}

/// All trials with a peer that falls silent, the subjects taking turns.
fn failover(args: &Args) -> Result<Samples, Error> {
    let mut samples = Samples::default();
    for (count, intervals, rounds) in SILENCES {
        let rounds = rounds.min(args.rounds);
        for round in 1..=rounds {
            for &family in &args.families {
                for &interval in intervals {
                    for &subject in args.subjects.iter().filter(|it| **it != Subject::Raw) {
                        let timers = Timers {
                            interval,
                            multiplier: 3,
                        };
                        let trial = Silence {
                            subject,
                            family,
                            count,
                            timers,
                            deadline: deadline(count),
                        };
                        let key = |figure| Key {
                            figure,
                            family,
                            count,
                            subject,
                        };
                        let what = format!("{} {family} {subject}", thousands(count));
                        eprint!("round {round}/{rounds} {what}:");
                        let run = |tell: &mut dyn FnMut(Figure, f64)| trial.run(tell);
                        one(run, trial.figures(), key, &mut samples)?;
                    }
                }
            }
        }
    }
    Ok(samples)
}

/// All trials with many idle peers.
fn many(args: &Args) -> Result<Samples, Error> {
    let mut samples = Samples::default();
    for bfd in [true, false] {
        for &subject in args.subjects.iter().filter(|it| IDLERS.contains(it)) {
            let trial = Many {
                subject,
                peers: PEERS,
                bfd,
                count: 100_000,
                deadline: Duration::from_secs(300),
            };
            let key = |figure| Key {
                figure,
                family: Family::Ipv6,
                count: trial.count,
                subject,
            };
            let without = if bfd { "" } else { " without BFD" };
            eprint!("{PEERS} idle peers{without}, {subject}:");
            let run = |tell: &mut dyn FnMut(Figure, f64)| trial.run(tell);
            one(run, trial.figures(), key, &mut samples)?;
        }
    }
    Ok(samples)
}

fn deadline(count: u32) -> Duration {
    Duration::from_secs(60 + u64::from(count / 2_000))
}

/// One trial, its figures told and kept.
fn one(
    run: impl FnOnce(&mut dyn FnMut(Figure, f64)) -> Result<(), Error>,
    mut missing: Vec<Figure>,
    key: impl Fn(Figure) -> Key,
    samples: &mut Samples,
) -> Result<(), Error> {
    let began = Instant::now();
    let last = missing.last().copied();
    let done = run(&mut |figure, value| {
        eprint!(" {figure} {}", figure.text(value));
        missing.retain(|other| *other != figure);
        samples.add(key(figure), Some(value));
    });
    eprintln!(" ({:.0} s)", began.elapsed().as_secs_f64());
    match done {
        Ok(()) => {}
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        Err(error) => {
            eprintln!("  failed: {error}");
            // The step that failed may have told its figure before.
            if missing.is_empty() {
                missing.extend(last);
            }
            for figure in missing {
                samples.add(key(figure), None);
            }
        }
    }
    Ok(())
}

fn write(docs: &Path, name: &str, text: &str) -> Result<(), Box<dyn error::Error>> {
    let path = docs.join("bench.md");
    let page = fs::read_to_string(&path)?;
    let page = page::replace(&page, name, text)
        .ok_or_else(|| format!("{} has no marks for the table {name}", path.display()))?;
    fs::write(path, page)?;
    Ok(())
}
