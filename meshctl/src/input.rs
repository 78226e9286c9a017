//! Files that operators hand in.

use crate::failure::Failure;
use crate::keys;
use std::io::{self, Read};
use std::path::Path;

/// A specification may be this long, in bytes.
const LONGEST_TEXT: u64 = 8 << 20;

/// A specification's name and text, with the keys of the files that it names; - for standard input.
pub(crate) fn read(file: &Path) -> Result<(String, String), Failure> {
    let (name, text) = named_text(file)?;
    let directory = file.parent().unwrap_or(Path::new(""));
    let text = keys::inline(&name, text, directory)?;
    Ok((name, text))
}

/// A file's text; - for standard input.
pub(crate) fn text(file: &Path) -> Result<String, Failure> {
    named_text(file).map(|(_, text)| text)
}

fn named_text(file: &Path) -> Result<(String, String), Failure> {
    let (name, mut source): (_, Box<dyn Read>) = if file == Path::new("-") {
        ("<stdin>".to_owned(), Box::new(io::stdin()))
    } else {
        let name = file.display().to_string();
        match std::fs::File::open(file) {
            Ok(file) => (name, Box::new(file)),
            Err(error) => {
                let reason = error.to_string();
                return Err(Failure::Read { file: name, reason });
            }
        }
    };
    let mut bytes = Vec::new();
    let read = source
        .by_ref()
        .take(LONGEST_TEXT + 1)
        .read_to_end(&mut bytes);
    let text = match read {
        Err(error) => Err(error.to_string()),
        Ok(_) if bytes.len() as u64 > LONGEST_TEXT => {
            Err(format!("it has more than {LONGEST_TEXT} bytes"))
        }
        Ok(_) => String::from_utf8(bytes).map_err(|error| {
            let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            format!("line {} is not UTF-8", line + 1)
        }),
    };
    match text {
        Ok(text) => Ok((name, text)),
        Err(reason) => Err(Failure::Read { file: name, reason }),
    }
}
