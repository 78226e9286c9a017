//! What the kernel has of IPsec, for whoever compares it with what charon believes.

use crate::charon::Charon;
use crate::kernel::{self, Deletions, Sa, Xfrm};
use crate::problem::problem;
use crate::vici::{self, Audit};
use routemesh_proto::Problem;
use std::future::pending;
use tracing::warn;

/// The kernel's IPsec, where it can be asked. That nothing works where it cannot, others report.
pub struct Ipsec {
    xfrm: Option<Xfrm>,
    deletions: Option<Deletions>,
}

impl Ipsec {
    /// Begins to listen too. Within a tokio runtime only.
    pub fn open() -> Self {
        let deletions = open(Deletions::listen());
        let xfrm = open(Xfrm::open());
        Self { xfrm, deletions }
    }

    /// Waits until something was deleted, for ever if nobody can tell. Dropping the future loses
    /// nothing.
    pub async fn deletion(&mut self) {
        if let Some(deletions) = &mut self.deletions {
            match deletions.next().await {
                Ok(()) => return,
                Err(error) => warn!("nobody tells any more what is deleted of IPsec: {error}"),
            }
            self.deletions = None;
        }
        pending().await
    }

    /// What there is.
    pub async fn list(&self, problems: &mut Vec<Problem>) -> Option<vici::Kernel> {
        let xfrm = self.xfrm.as_ref()?;
        let lists = async {
            Ok::<_, kernel::Error>(vici::Kernel {
                sas: xfrm.sas().await?,
                policies: xfrm.policies().await?.into_iter().collect(),
            })
        };
        let failed = |error: kernel::Error| problems.push(problem("kernel", &error));
        lists.await.map_err(failed).ok()
    }

    /// Compares charon's SAs with what was there before they were listed, and if need be with what
    /// is there now.
    pub async fn audit(
        &self,
        charon: &Charon,
        before: Option<vici::Kernel>,
        problems: &mut Vec<Problem>,
    ) -> Audit {
        let Some(before) = before else {
            return Audit::default();
        };
        let audit = vici::audit(&charon.sas, &charon.others, &before, None);
        if audit.broken.is_empty() {
            return audit;
        }
        match self.list(problems).await {
            Some(after) => vici::audit(&charon.sas, &charon.others, &before, Some(&after)),
            None => Audit::default(),
        }
    }

    /// Deletes an SA.
    pub async fn delete(&self, sa: &Sa) -> Option<Problem> {
        let deleted = self.xfrm.as_ref()?.delete(sa).await;
        deleted.err().map(|error| problem("kernel", &error))
    }
}

fn open<T>(opened: Result<T, kernel::Error>) -> Option<T> {
    opened
        .map_err(|error| warn!("the kernel is not asked about IPsec: {error}"))
        .ok()
}
