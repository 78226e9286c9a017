//! Gathers what `doctor` and `trace` judge: what gateways report, and what they answer now.

use super::questions::QuestionsService;
use crate::doctor::{End, Evidence, Outcome, climb, outcome};
use crate::mesh::Mesh;
use crate::report::Reports;
use crate::topology::{Wanted, topology};
use crate::trace;
use routemesh_proto::{
    AskLookup, AskWalk, Diagnosis, Edge, EdgeCounts, Footing, Lookup, Trace, TraceRequest, Unasked,
    answer, ask,
};
use std::collections::{BTreeMap, BTreeSet};
use tokio::task::JoinSet;
use tonic::Status;

/// Tunnels that are walked for one question: first those that are not up.
const WALKED: usize = 64;
/// Ladders that are shown.
const SHOWN: usize = 200;

/// What gateways found, by gateway and tunnel, and why others did not answer.
#[derive(Debug, Default)]
struct Walked {
    footings: BTreeMap<(String, u32), Footing>,
    unasked: BTreeMap<String, String>,
}

impl QuestionsService {
    pub(super) async fn diagnose(
        &self,
        gateway: String,
        peer: String,
        all: bool,
    ) -> Result<Diagnosis, Status> {
        let mesh = self.mesh_of(&gateway)?;
        let wanted = Wanted {
            gateway: Some(gateway.clone()).filter(|it| !it.is_empty()),
            ..Wanted::default()
        };
        let looked = mesh.clone();
        let (view, reports) = self
            .look(move |state| {
                let reports = state.reports();
                (topology(&looked, &reports, &wanted), reports)
            })
            .await?;
        let (mut up, mut unwell) = unlisted(view.edge_counts.unwrap_or_default(), &view.edges);
        let mut edges: Vec<Edge> = view
            .edges
            .into_iter()
            .map(|it| from(it, &gateway))
            .collect();
        if !peer.is_empty() {
            edges.retain(|edge| edge.b.as_ref().is_some_and(|end| end.gateway == peer));
            (up, unwell) = (0, 0);
            if edges.is_empty() {
                let text = format!(
                    "there is no tunnel between {gateway} and {peer}: meshctl topology lists them"
                );
                return Err(Status::not_found(text));
            }
        }
        edges.sort_by_key(|edge| edge.verdict == "up");
        let walked = self.walk(&mesh, edges.iter().take(WALKED)).await;
        let mut diagnosis = Diagnosis {
            well: up,
            by_report: up,
            more: unwell,
            ..Diagnosis::default()
        };
        let all = all || !peer.is_empty();
        for (n, edge) in edges.iter().enumerate() {
            if n >= WALKED && edge.verdict == "up" {
                diagnosis.well += 1;
                diagnosis.by_report += 1;
                continue;
            }
            let evidence = evidence(&mesh, edge, &reports, &walked);
            let ladder = climb(&evidence);
            let outcome = outcome(&evidence, &ladder, edge.verdict == "up");
            match outcome {
                Outcome::Holds => diagnosis.well += 1,
                Outcome::Filtered => {
                    diagnosis.well += 1;
                    diagnosis.filtered += 1;
                }
                Outcome::ByReport => {
                    diagnosis.well += 1;
                    diagnosis.by_report += 1;
                }
                Outcome::Unwell => {}
            }
            let unwell = outcome == Outcome::Unwell;
            if !all && !unwell {
                continue;
            }
            match diagnosis.ladders.len() < SHOWN {
                true => diagnosis.ladders.push(ladder),
                false if unwell => diagnosis.more += 1,
                false => {}
            }
        }
        diagnosis.ladders.sort_by_key(|ladder| ladder.tunnel);
        let unasked = walked.unasked.into_iter();
        diagnosis.unasked = unasked
            .map(|(gateway, reason)| Unasked { gateway, reason })
            .collect();
        Ok(diagnosis)
    }

    /// Asks all gateways at the ends of these tunnels, at the same time.
    async fn walk(&self, mesh: &Mesh, edges: impl Iterator<Item = &Edge>) -> Walked {
        let mut tunnels: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for edge in edges {
            for end in [&edge.a, &edge.b].into_iter().flatten() {
                if mesh.gateway(&end.gateway).is_some() {
                    let numbers = tunnels.entry(end.gateway.clone()).or_default();
                    numbers.push(edge.number);
                }
            }
        }
        let (mut walked, mut asked) = (Walked::default(), JoinSet::new());
        for (gateway, tunnels) in tunnels {
            let most = tunnels.len();
            let question = ask::Question::Walk(AskWalk { tunnels });
            match self.asks.ask(&gateway, question) {
                Ok(pieces) => {
                    asked.spawn(async move { (gateway, pieces.all(most).await) });
                }
                Err(status) => {
                    walked.unasked.insert(gateway, status.message().to_owned());
                }
            }
        }
        while let Some(answered) = asked.join_next().await {
            match answered {
                Ok((gateway, Ok(pieces))) => {
                    for piece in pieces {
                        if let answer::Piece::Footing(footing) = piece {
                            let key = (gateway.clone(), footing.tunnel);
                            walked.footings.insert(key, footing);
                        }
                    }
                }
                Ok((gateway, Err(status))) => {
                    walked.unasked.insert(gateway, status.message().to_owned());
                }
                Err(_) => {}
            }
        }
        walked
    }

    /// Follows packets to an address and back.
    pub(super) async fn follow(&self, asked: TraceRequest) -> Result<Trace, Status> {
        let mesh = self.mesh_of(&asked.gateway)?;
        let target = asked.target.parse();
        let target = target
            .map_err(|_| Status::invalid_argument(format!("{:?} is no address", asked.target)))?;
        let gateway = asked.gateway.clone();
        let there = self.look_up(&gateway, trace::question(&asked)).await?;
        let far = trace::far(&mesh, &there);
        let mut looks = trace::Looks {
            there,
            ..trace::Looks::default()
        };
        if let Some(far) = &far {
            let back = trace::back(&asked, &looks.there);
            let (onward, back) = tokio::join!(self.look_up(far, trace::question(&asked)), async {
                match back {
                    Some(question) => Some(self.look_up(far, question).await),
                    None => None,
                }
            });
            let back = back.transpose();
            let failed = [onward.as_ref().err(), back.as_ref().err()];
            let failed = failed.into_iter().flatten();
            let failed: BTreeSet<&str> = failed.map(Status::message).collect();
            looks.unasked = failed.into_iter().map(str::to_owned).collect();
            looks.onward = onward.ok();
            looks.back = back.ok().flatten();
        }
        self.look(move |state| trace::trace(&mesh, &state.reports(), &gateway, target, far, looks))
            .await
    }

    async fn look_up(&self, gateway: &str, question: AskLookup) -> Result<Lookup, Status> {
        let asked = self.asks.ask(gateway, ask::Question::Lookup(question))?;
        let found = asked.all(1).await?.into_iter().next();
        match found {
            Some(answer::Piece::Lookup(lookup)) => Ok(lookup),
            _ => Err(Status::internal(format!("{gateway} gave no answer"))),
        }
    }
}

/// Of the tunnels that are not listed, those that are up, and those that are not.
fn unlisted(counts: EdgeCounts, listed: &[Edge]) -> (u64, u64) {
    let is_up = |edge: &&Edge| edge.verdict == "up";
    let up = listed.iter().filter(is_up).count() as u64;
    let unwell = listed.len() as u64 - up;
    let all = counts.degraded + counts.down + counts.unknown;
    (counts.up.saturating_sub(up), all.saturating_sub(unwell))
}

/// An edge as it is seen from a gateway.
fn from(edge: Edge, gateway: &str) -> Edge {
    match edge.b.as_ref().is_some_and(|end| end.gateway == gateway) {
        true => Edge {
            a: edge.b,
            b: edge.a,
            ..edge
        },
        false => edge,
    }
}

fn evidence<'e>(
    mesh: &Mesh,
    edge: &'e Edge,
    reports: &'e Reports,
    walked: &'e Walked,
) -> Evidence<'e> {
    let ends = [false, true].map(|second| {
        let end = End::of(edge, second);
        let report = reports.get(end.name).filter(|report| report.is_fresh());
        let head = report.map(|report| report.kept.head());
        let key = (end.name.to_owned(), edge.number);
        End {
            foreign: mesh.gateway(end.name).is_none(),
            unasked: walked.unasked.get(end.name).map(String::as_str),
            footing: walked.footings.get(&key),
            problems: head.map_or(&[], |it| &it.problems),
            rejected: head.map_or(&[], |it| &it.rejected),
            announced: head.map(|it| it.announced.as_slice()),
            ..end
        }
    });
    Evidence {
        number: edge.number,
        kind: &edge.kind,
        ends,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_well_only_if_it_is_up() {
        let edge = |verdict: &str| Edge {
            verdict: verdict.to_owned(),
            ..Edge::default()
        };
        let counts = EdgeCounts {
            up: 10,
            degraded: 1,
            down: 5,
            unknown: 2,
        };
        assert_eq!(unlisted(counts, &[]), (10, 8));
        let listed = [edge("up"), edge("down"), edge("degraded")];
        assert_eq!(unlisted(counts, &listed), (9, 6));
        assert_eq!(unlisted(EdgeCounts::default(), &listed), (0, 0));
    }
}
