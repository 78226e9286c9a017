//! What BGP tells, carried out beside the passes: while the kernel does one piece of work, the next is
//! thought out.

use super::Gateway;
use crate::dataplane::Work;
use crate::kernel::{Answers, Begun, Op};
use crate::problem::{problem, remark};
use ipnet::IpNet;
use std::collections::VecDeque;
use std::pin::pin;
use std::time::{Duration, Instant};
use tracing::debug;

/// What the kernel refused is tried again after this.
const RETRY: Duration = Duration::from_secs(10);
/// Pieces of work that the kernel has at a time: one that it does, and one for afterwards.
const AHEAD: usize = 2;
/// So many refusals are named.
const REFUSALS: usize = 100;

impl Gateway {
    /// Waits until BGP has told something or the kernel has done something, and notes it for
    /// [`Gateway::work`]. False once BGP has ended. Dropping the future loses nothing.
    pub async fn hear(&mut self) -> bool {
        tokio::select! {
            news = self.news.recv() => match news {
                Some(news) => self.dataplane.news(news),
                None => return false,
            },
            answers = answer(&mut self.under_way) => self.answers.push_back(answers),
        }
        true
    }

    /// Does with what BGP told what can be done by now, the most urgent of it first. It waits for the
    /// kernel only where that refused something for being there already: then all is listed. True
    /// if that was the last of it.
    pub async fn work(&mut self) -> bool {
        let mut worked = false;
        while let Some(answers) = self.answers.pop_front() {
            self.carried_out(answers).await;
            worked = true;
        }
        while let Ok(news) = self.news.try_recv() {
            self.dataplane.news(news);
        }
        loop {
            let work = match self.under_way.len() < AHEAD {
                true => self.dataplane.next_work(),
                false => self.dataplane.urgent(),
            };
            if let Some(work) = work {
                worked |= work.ops.is_empty();
                self.begin(work).await;
            } else if let Some(review) = self.dataplane.begin_review() {
                self.refused.clear();
                self.bgp.review(review).await;
            } else {
                break;
            }
        }
        worked && self.dataplane.at_rest()
    }

    /// Until nothing is under way.
    pub(super) async fn land(&mut self) {
        loop {
            while let Some(answers) = self.answers.pop_front() {
                self.carried_out(answers).await;
            }
            if self.under_way.is_empty() {
                return;
            }
            let answers = answer(&mut self.under_way).await;
            self.answers.push_back(answers);
        }
    }

    pub(super) async fn begin(&mut self, work: Work) {
        if tracing::enabled!(tracing::Level::DEBUG) {
            work.ops.iter().for_each(|op| debug!("{op}"));
        }
        if work.ops.is_empty() {
            let told = self.dataplane.done(&work, []);
            self.tell(told).await;
            return;
        }
        let begun = self.kernel.begin(work.ops.clone());
        self.under_way.push_back((work, begun));
    }

    /// Puts back the routes that somebody deleted. One that goes again soon after waits for the next
    /// review: two programs that undo each other's work must not spin.
    pub(super) async fn mend(&mut self, now: Instant) {
        self.mended.retain(|_, at| now < *at + RETRY);
        let gone = std::mem::take(&mut self.gone);
        let (again, gone): (Vec<_>, Vec<_>) = gone
            .into_iter()
            .partition(|key| self.mended.contains_key(key));
        for key in again {
            self.doubt();
            self.retry.get_or_insert(now + RETRY);
            if self.refused.len() < REFUSALS {
                let reason = "was put back and deleted again: does another program delete what it does not know?";
                self.refused
                    .push(remark(format!("route {}", key.prefix), reason));
            }
        }
        let Some(work) = self.dataplane.mend(gone) else {
            return;
        };
        let put = work.ops.iter().filter_map(|op| match op {
            Op::PutRoute { key, .. } => Some((*key, now)),
            _ => None,
        });
        self.mended.extend(put);
        self.begin(work).await;
        self.land().await;
    }

    async fn carried_out(&mut self, (work, answers): (Work, Answers)) {
        let results = self.kernel.judge(&work.ops, answers).await;
        let ok = results.iter().map(Result::is_ok);
        let told = self.dataplane.done(&work, ok);
        self.tell(told).await;
        for error in results.into_iter().filter_map(Result::err) {
            self.doubt();
            self.retry.get_or_insert_with(|| Instant::now() + RETRY);
            if self.refused.len() < REFUSALS {
                self.refused.push(problem(&error.op, &error.reason));
            }
        }
    }

    async fn tell(&mut self, told: Vec<(IpNet, bool)>) {
        self.litter.add(told.len(), Instant::now());
        if !told.is_empty() {
            self.bgp.answer(told).await;
        }
    }

    /// Waits for a step of a pass. A peer that is lost meanwhile does not wait for its end.
    pub(super) async fn meanwhile<T>(&mut self, step: impl Future<Output = T>) -> T {
        let mut step = pin!(step);
        loop {
            tokio::select! {
                biased;
                Some(news) = self.news.recv() => {
                    self.dataplane.news(news);
                    if let Some(work) = self.dataplane.urgent() {
                        self.losses += 1;
                        self.begin(work).await;
                        self.land().await;
                    }
                }
                done = &mut step => return done,
            }
        }
    }
}

/// The next answers of the kernel, if it has been given anything to do.
async fn answer(under_way: &mut VecDeque<(Work, Begun)>) -> (Work, Answers) {
    let Some((_, begun)) = under_way.front_mut() else {
        return std::future::pending().await;
    };
    let answers = begun.answer().await;
    match under_way.pop_front() {
        Some((work, _)) => (work, answers),
        None => std::future::pending().await,
    }
}
