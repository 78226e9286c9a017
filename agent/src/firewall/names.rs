//! The addresses of endpoints that are given by name.

use crate::config::Config;
use crate::problem::remark;
use futures::{StreamExt, stream};
use routemesh_proto::Problem;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::timeout;

/// One question to the resolver takes this long at most.
const TIMEOUT: Duration = Duration::from_secs(10);
/// So many at a time.
const AT_ONCE: usize = 16;
/// Addresses of one name that count.
const ADDRESSES: usize = 16;

/// What came of asking for each name.
pub type Answers = BTreeMap<String, Result<BTreeSet<IpAddr>, String>>;

/// The far endpoints that are names.
pub fn names(config: &Config) -> BTreeSet<String> {
    let endpoints = config
        .tunnels
        .values()
        .map(|tunnel| &tunnel.remote_endpoint);
    let names = endpoints.filter(|text| text.parse::<IpAddr>().is_err());
    names.cloned().collect()
}

/// Asks for all.
pub async fn resolve(names: BTreeSet<String>) -> Answers {
    let ask = |name: String| async {
        let question = lookup_host((name.as_str(), 0));
        let answer = match timeout(TIMEOUT, question).await {
            Ok(Ok(found)) => Ok(found.map(|it| it.ip()).take(ADDRESSES).collect()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer".to_owned()),
        };
        (name, answer)
    };
    let questions = stream::iter(names).map(ask).buffer_unordered(AT_ONCE);
    questions.collect().await
}

/// What is known of each name by now.
#[derive(Debug, Default)]
pub struct Book {
    addresses: BTreeMap<String, BTreeSet<IpAddr>>,
    failed: BTreeMap<String, String>,
}

impl Book {
    /// Enters answers. A name that has no answer now keeps the addresses it had.
    pub fn enter(&mut self, answers: Answers) {
        for (name, answer) in answers {
            match answer {
                Ok(found) => {
                    self.failed.remove(&name);
                    self.addresses.insert(name, found);
                }
                Err(reason) => drop(self.failed.insert(name, reason)),
            }
        }
    }

    /// Forgets all but these.
    pub fn keep(&mut self, names: &BTreeSet<String>) {
        self.addresses.retain(|name, _| names.contains(name));
        self.failed.retain(|name, _| names.contains(name));
    }

    /// Every name was asked for, whatever came of it.
    pub fn has_all(&self, names: &BTreeSet<String>) -> bool {
        let asked =
            |name: &String| self.addresses.contains_key(name) || self.failed.contains_key(name);
        names.iter().all(asked)
    }

    /// All addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.values().flatten().copied()
    }

    /// Names without an answer.
    pub fn problems(&self) -> impl Iterator<Item = Problem> + '_ {
        self.failed.iter().map(|(name, reason)| {
            let effect = match self.addresses.contains_key(name) {
                true => "its last addresses still count",
                false => "until it resolves, IKE and ESP from it are not let in",
            };
            remark(
                format!("endpoint {name}"),
                &format!("cannot be resolved ({reason}): {effect}"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_last_addresses() {
        let name = "vpn.example.net".to_owned();
        let names = BTreeSet::from([name.clone()]);
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let mut book = Book::default();
        assert!(!book.has_all(&names));
        book.enter([(name.clone(), Err("no answer".to_owned()))].into());
        assert!(book.has_all(&names));
        let said = |book: &Book| book.problems().map(|it| it.reason).collect::<String>();
        assert!(said(&book).contains("not let in"));
        book.enter([(name.clone(), Ok([address].into()))].into());
        assert_eq!(said(&book), "");
        book.enter([(name, Err("no answer".to_owned()))].into());
        assert!(said(&book).contains("still count"));
        assert!(book.addresses().eq([address]));
        book.keep(&BTreeSet::new());
        assert_eq!(book.addresses().count() + book.problems().count(), 0);
    }
}
