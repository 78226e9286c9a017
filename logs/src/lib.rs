//! What the daemons log, and where to: lines for people, lines of JSON, systemd's journal with its own fields,
//! and beside any of them a collector of OpenTelemetry.
//!
//! An event's fields `gateway` and `tunnel` say what it is about, for programs that look for it: its message
//! names the same, so that lines for people leave them out.

mod human;

use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{LogExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;
use thiserror::Error;
use tracing::level_filters::LevelFilter;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Layer, Registry};

/// For the last lines to reach the collector, when the program ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// What our crates and our programs are called to begin with.
const OURS: [&str; 2] = ["routemesh_", "mesh_"];

/// A place for log lines beside the usual ones.
pub type Place = Box<dyn Layer<Registry> + Send + Sync>;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A line for people on standard error, coloured on a terminal.
    Human,
    /// An object a line on standard error.
    Json,
    /// To systemd's journal, with priorities, and with fields to look for: `journalctl TUNNEL=rm1-V2-1`.
    Journald,
}

/// What to log, and where to.
#[derive(Clone, Debug)]
pub struct Options {
    /// error, warn, info, debug or trace; or by module, like `info,routemesh_agent::bgp=debug`.
    pub level: String,
    /// Without one, the journal where standard error leads there, else lines for people.
    pub format: Option<Format>,
    /// A collector that takes OTLP over gRPC, like `http://[::1]:4317`.
    pub otlp: Option<String>,
}

/// Why nothing can be logged.
#[derive(Debug, Error)]
pub enum LogsError {
    /// It is no level, and no list of modules with theirs.
    #[error(
        "--log {0}: one of error, warn, info, debug, trace, or a list like info,routemesh_agent::bgp=debug"
    )]
    Level(String),
    /// systemd's journal is not there.
    #[error(
        "--log-format journald: the journal does not take anything: {0}; without the option, lines go to standard error"
    )]
    Journal(io::Error),
    /// Nothing can be sent there.
    #[error("--otlp {0}: {1}; it is like http://[::1]:4317")]
    Collector(String, String),
    /// Somebody else in this program logs already.
    #[error("the program logs already: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// While it is there, lines reach the collector, if there is one.
#[must_use = "the last lines are lost where it is dropped early"]
#[derive(Debug)]
pub struct Logging(Option<SdkLoggerProvider>);

impl Drop for Logging {
    fn drop(&mut self) {
        if let Some(provider) = &self.0 {
            // A collector that is away has no right to hold up the end.
            let _ = provider.shutdown_with_timeout(FAREWELL);
        }
    }
}

/// Has all that the program logs from now on written as asked, and to `also`. Within a runtime of tokio, whose
/// tasks talk with the collector.
pub fn start(
    program: &'static str,
    version: &'static str,
    options: &Options,
    also: Option<Place>,
) -> Result<Logging, LogsError> {
    let filter = filter(&options.level)?;
    let mut places = vec![place(program, options.format)?];
    places.extend(also);
    let provider = options.otlp.as_deref();
    let provider = provider.map(|url| collector(program, version, url));
    let provider = provider.transpose()?;
    if let Some(provider) = &provider {
        let bridge = OpenTelemetryTracingBridge::new(provider);
        // What sends the lines logs lines too.
        let ours = Targets::new().with_targets(OURS.map(|ours| (ours, LevelFilter::TRACE)));
        places.push(bridge.with_filter(ours).boxed());
    }
    let subscriber = tracing_subscriber::registry().with(places).with(filter);
    subscriber.try_init()?;
    Ok(Logging(provider))
}

/// A level alone is ours; libraries speak up when something is wrong, or when they are named.
fn filter(level: &str) -> Result<Targets, LogsError> {
    if let Ok(level) = level.parse::<LevelFilter>() {
        let others = level.min(LevelFilter::WARN);
        let ours = OURS.map(|ours| (ours, level));
        return Ok(Targets::new().with_default(others).with_targets(ours));
    }
    let wrong = || LogsError::Level(level.to_owned());
    // A word alone that is no level would be taken for a module, and all else be silent.
    if !level.contains('=') {
        return Err(wrong());
    }
    level.parse().map_err(|_| wrong())
}

fn place(program: &str, format: Option<Format>) -> Result<Place, LogsError> {
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let lines = || fmt::layer().with_writer(io::stderr).with_target(false);
    match format {
        Some(Format::Json) => Ok(lines().json().flatten_event(true).boxed()),
        Some(Format::Journald) => journal(program).map_err(LogsError::Journal),
        None if stream.is_some_and(|stream| is_standard_error(&stream)) => {
            // The journal takes lines too.
            journal(program).or_else(|_| place(program, Some(Format::Human)))
        }
        None | Some(Format::Human) => Ok(lines()
            .fmt_fields(human::Message)
            .with_ansi(io::stderr().is_terminal())
            .boxed()),
    }
}

/// Whether standard error is the stream that `$JOURNAL_STREAM` names: device and inode (systemd.exec(5)).
fn is_standard_error(stream: &str) -> bool {
    let ours =
        || -> io::Result<_> { File::from(io::stderr().as_fd().try_clone_to_owned()?).metadata() };
    ours().is_ok_and(|ours| stream == format!("{}:{}", ours.dev(), ours.ino()))
}

fn journal(program: &str) -> io::Result<Place> {
    // As everybody else's: what is no news to anybody is not a notice.
    let priorities = PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        ..PriorityMappings::new()
    };
    let layer = tracing_journald::layer()?
        .with_syslog_identifier(program.to_owned())
        .with_priority_mappings(priorities)
        .with_field_prefix(None);
    Ok(layer.boxed())
}

fn collector(
    program: &'static str,
    version: &'static str,
    url: &str,
) -> Result<SdkLoggerProvider, LogsError> {
    let wrong = |why: String| LogsError::Collector(url.to_owned(), why);
    if !url.starts_with("http://") {
        let why = "a collector on this host takes lines in the clear, and passes them on by TLS";
        return Err(wrong(why.to_owned()));
    }
    let exporter = LogExporter::builder().with_tonic().with_endpoint(url);
    let exporter = exporter.build().map_err(|error| wrong(error.to_string()))?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let resource = Resource::builder()
        .with_service_name(program)
        .with_attribute(opentelemetry::KeyValue::new("service.version", version))
        .with_attribute(opentelemetry::KeyValue::new(
            "host.name",
            host.trim().to_owned(),
        ))
        .build();
    Ok(SdkLoggerProvider::builder()
        .with_resource(resource)
        .with_batch_exporter(exporter)
        .build())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn a_level_is_ours_and_of_libraries_only_what_is_wrong_is_said() {
        let says = |level: &str, target: &str, of: Level| {
            let filter = filter(level).expect("a good one");
            filter.would_enable(target, &of)
        };
        assert!(says("debug", "routemesh_agent::bgp", Level::DEBUG));
        assert!(says("debug", "mesh_agent", Level::DEBUG));
        assert!(!says("debug", "h2::client", Level::INFO));
        assert!(says("debug", "h2::client", Level::WARN));
        assert!(!says("error", "h2::client", Level::WARN));
        assert!(!says("info", "routemesh_agent", Level::DEBUG));
        let by_module = "info,routemesh_agent::bgp=debug";
        assert!(says(
            by_module,
            "routemesh_agent::bgp::driver",
            Level::DEBUG
        ));
        assert!(!says(by_module, "routemesh_agent::vici", Level::DEBUG));
        assert!(says(by_module, "h2::client", Level::INFO));
        for wrong in ["loud", "routemesh_agent", "routemesh_agent=loud"] {
            assert!(filter(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_journal_is_where_standard_error_leads_there() {
        let ours = io::stderr().as_fd().try_clone_to_owned().map(File::from);
        let ours = ours.and_then(|ours| ours.metadata()).expect("it is open");
        assert!(is_standard_error(&format!("{}:{}", ours.dev(), ours.ino())));
        assert!(!is_standard_error(&format!(
            "{}:{}",
            ours.dev(),
            ours.ino() + 1
        )));
        assert!(!is_standard_error(""));
    }
}
