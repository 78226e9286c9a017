//! A line for people: the message, and the fields that it does not tell itself.

use std::fmt;
use tracing::field::{Field, Visit};
use tracing_subscriber::field::{RecordFields, VisitOutput};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};

/// What an event is about; its message says so in its own words.
const TOLD: [&str; 2] = ["gateway", "tunnel"];

/// Writes fields as [`fmt`](tracing_subscriber::fmt) does, control characters escaped, but for those.
pub(crate) struct Message;

impl<'w> FormatFields<'w> for Message {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut untold = Untold(DefaultVisitor::new(writer, true));
        fields.record(&mut untold);
        untold.0.finish()
    }
}

struct Untold<'w>(DefaultVisitor<'w>);

impl Visit for Untold<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if !TOLD.contains(&field.name()) {
            self.0.record_debug(field, value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if !TOLD.contains(&field.name()) {
            self.0.record_str(field, value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        if !TOLD.contains(&field.name()) {
            self.0.record_error(field, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};
    use tracing::info;
    use tracing_subscriber::prelude::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_the_message_tells_is_told_once_and_no_terminal_is_commanded() {
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer()
            .fmt_fields(Message)
            .without_time()
            .with_target(false)
            .with_ansi(false)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            info!(
                tunnel = "rm1-V2-1",
                prefixes = 3,
                "BGP {} is up",
                "rm1-V2-1"
            );
            info!(gateway = "V1-1", "it says \x1b[31mred");
        });
        let text = String::from_utf8(written.0.lock().expect("not poisoned").clone());
        let expected = " INFO BGP rm1-V2-1 is up prefixes=3\n INFO it says \\x1b[31mred\n";
        assert_eq!(text.expect("UTF-8"), expected);
    }
}
