//! Which mesh is meant, and who asks: by flags, by the environment, or by a context in a file.

mod file;

pub(crate) use file::{Contexts, Entry, Home, is_name};

use crate::client::Client;
use crate::failure::Failure;
use clap::Args;
use serde::Serialize;
use std::env;
use std::path::{Path, PathBuf};

/// What was said on the command line, which comes before all else.
#[derive(Args, Clone, Default)]
pub(crate) struct Flags {
    /// The controller, like https://[2001:db8::7]:7179; of several all, with commas between. Otherwise
    /// MESHCTL_CONTROLLER, or the context's.
    #[arg(long, value_name = "URL", global = true)]
    controller: Option<String>,
    /// Directory with ca.pem, cert.pem and key.pem of an operator. Otherwise MESHCTL_IDENTITY, or the context's.
    #[arg(long, value_name = "DIR", global = true)]
    identity: Option<PathBuf>,
    /// The mesh, as `meshctl context list` calls it. Otherwise MESHCTL_CONTEXT, or the one in use.
    #[arg(long, value_name = "NAME", global = true)]
    context: Option<String>,
}

/// What the environment says.
#[derive(Clone, Default)]
struct Environment {
    controller: Option<String>,
    identity: Option<PathBuf>,
    context: Option<String>,
}

impl Environment {
    fn read() -> Self {
        let said = |name: &str| env::var(name).ok().filter(|it| !it.is_empty());
        Self {
            controller: said("MESHCTL_CONTROLLER"),
            identity: said("MESHCTL_IDENTITY").map(PathBuf::from),
            context: said("MESHCTL_CONTEXT"),
        }
    }
}

/// What was chosen, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Chosen<T> {
    pub(crate) value: T,
    pub(crate) from: String,
}

/// Which mesh, and who asks.
pub(crate) struct Context {
    pub(crate) controller: Option<Chosen<String>>,
    pub(crate) identity: Option<Chosen<PathBuf>>,
    /// The context that is named, but is not there: `enroll` makes it.
    pub(crate) unknown: Option<String>,
}

impl Context {
    /// Reads the environment; and the file, where there is one.
    pub(crate) fn find(flags: Flags) -> Result<Self, Failure> {
        let contexts = match Home::find() {
            Some(home) => home.read()?,
            None => Contexts::default(),
        };
        Ok(choose(flags, Environment::read(), &contexts))
    }

    /// The controller; nothing is sent yet.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let missing = |what| match &self.unknown {
            Some(name) => Failure::NoContext(name.clone()),
            None => Failure::Usage(what),
        };
        let controller = self.controller.as_ref().ok_or_else(|| missing(
            "which controller? Give --controller URL or set MESHCTL_CONTROLLER, like https://[2001:db8::7]:7179, or use a context: `meshctl context list`",
        ))?;
        let identity = self.identity().ok_or_else(|| missing(
            "who asks? Give --identity DIR or set MESHCTL_IDENTITY; `meshctl enroll TOKEN` makes one, and `mesh-controller issue --admin NAME --out DIR` the first",
        ))?;
        Ok(Client::new(&controller.value, identity)?)
    }

    pub(crate) fn identity(&self) -> Option<&Path> {
        self.identity.as_ref().map(|it| it.value.as_path())
    }
}

/// A flag comes first, then a context that a flag names, then the environment, then a context that the environment
/// names, then the one in use. Who names a context by a flag means it, whatever the environment was made for.
fn choose(flags: Flags, environment: Environment, contexts: &Contexts) -> Context {
    let (environment, by_name) = match flags.context {
        Some(_) => (Environment::default(), flags.context.clone()),
        None => {
            let by_name = environment
                .context
                .clone()
                .or_else(|| contexts.context.clone());
            (environment, by_name)
        }
    };
    let entry = by_name
        .as_ref()
        .and_then(|name| contexts.contexts.get(name));
    let from = format!("context {}", by_name.as_deref().unwrap_or_default());
    let (controller, identity) = match entry {
        Some(Entry {
            controller,
            identity,
        }) => (Some(controller.clone()), Some(identity.clone())),
        None => (None, None),
    };
    Context {
        controller: first([
            (flags.controller, "--controller"),
            (environment.controller, "MESHCTL_CONTROLLER"),
            (controller, &from),
        ]),
        identity: first([
            (flags.identity, "--identity"),
            (environment.identity, "MESHCTL_IDENTITY"),
            (identity, &from),
        ]),
        unknown: by_name.filter(|_| entry.is_none()),
    }
}

fn first<T>(all: [(Option<T>, &str); 3]) -> Option<Chosen<T>> {
    let mut all = all.into_iter();
    all.find_map(|(value, from)| {
        let from = from.to_owned();
        value.map(|value| Chosen { value, from })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts() -> Contexts {
        let text = r#"
            context = "home"
            [contexts.home]
            controller = "h"
            identity = "/h"
            [contexts.prod]
            controller = "p"
            identity = "/p"
        "#;
        toml::from_str(text).unwrap()
    }

    /// Controller, identity and context, by flag and by environment; then what is chosen.
    #[test]
    fn the_nearest_word_counts() {
        let table: [([&str; 3], [&str; 3], [&str; 2]); 8] = [
            (["", "", ""], ["", "", ""], ["h", "/h"]),
            (["", "", ""], ["", "", "prod"], ["p", "/p"]),
            (["", "", ""], ["e", "/e", "prod"], ["e", "/e"]),
            (["", "", ""], ["e", "", ""], ["e", "/h"]),
            (["", "", "prod"], ["e", "/e", "home"], ["p", "/p"]),
            (["f", "", "prod"], ["e", "/e", ""], ["f", "/p"]),
            (["f", "/f", ""], ["e", "/e", "home"], ["f", "/f"]),
            (["", "", "prod"], ["", "", "none"], ["p", "/p"]),
        ];
        let some = |text: &str| Some(text.to_owned()).filter(|it| !it.is_empty());
        for (flags, environment, expected) in table {
            let said = (flags, environment);
            let flags = Flags {
                controller: some(flags[0]),
                identity: some(flags[1]).map(PathBuf::from),
                context: some(flags[2]),
            };
            let environment = Environment {
                controller: some(environment[0]),
                identity: some(environment[1]).map(PathBuf::from),
                context: some(environment[2]),
            };
            let chosen = choose(flags, environment, &contexts());
            let controller = chosen.controller.map(|it| it.value);
            let identity = chosen.identity.map(|it| it.value.display().to_string());
            assert_eq!(
                [controller.unwrap(), identity.unwrap()],
                expected,
                "{said:?}"
            );
        }
    }

    #[test]
    fn a_context_that_is_not_there_is_not_another() {
        let flags = |context: &str| Flags {
            context: Some(context.to_owned()),
            ..Flags::default()
        };
        let chosen = choose(flags("new"), Environment::default(), &contexts());
        assert_eq!((chosen.controller.clone(), chosen.identity()), (None, None));
        let error = chosen.client().err().unwrap().to_string();
        assert!(error.contains("context list"), "{error}");
        let environment = Environment {
            context: Some("new".to_owned()),
            ..Environment::default()
        };
        let chosen = choose(Flags::default(), environment, &contexts());
        assert_eq!(chosen.unknown.as_deref(), Some("new"));
        let nothing = choose(
            Flags::default(),
            Environment::default(),
            &Contexts::default(),
        );
        assert!(nothing.client().is_err());
    }
}
