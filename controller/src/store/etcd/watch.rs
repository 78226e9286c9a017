//! The other controllers: what they change, and where they are.

use super::api::KeyValue;
use super::client::{Client, name, put_leased};
use crate::store::Others;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch::{self, Sender};
use tonic::Status;
use tracing::{info, warn};

/// Before the next attempt, when etcd is away.
const PAUSE: Duration = Duration::from_secs(1);
/// A controller that is gone is known to be so after so many seconds,
const LEASE: i64 = 10;
/// and says this often that it is not.
const BEAT: Duration = Duration::from_secs(3);

/// What concerns the others: not the long parts, which are read when the head names them.
const WATCHED: [&str; 4] = ["head", "admission/", "wireguard/", "controller/"];

/// Tells the others where this controller is, and hears of them, for as long as there is a runtime.
pub(super) fn start(runtime: &Runtime, client: &Client, own: String) -> Others {
    let (changed, changes) = watch::channel(());
    let (controllers, others) = watch::channel(BTreeSet::new());
    let there = own.clone();
    runtime.spawn(kept_up("this controller is not known to others", {
        let (client, own) = (client.clone(), own.clone());
        move || be_there(client.clone(), own.clone())
    }));
    runtime.spawn(kept_up("what other controllers change is not heard of", {
        let client = client.clone();
        move || {
            follow(
                client.clone(),
                own.clone(),
                changed.clone(),
                controllers.clone(),
            )
        }
    }));
    Others {
        own: there,
        changed: changes,
        controllers: others,
    }
}

/// Does it again whenever it ends; says once that it fails, and that it no longer does.
async fn kept_up<F>(trouble: &str, again: impl Fn() -> F)
where
    F: Future<Output = Status>,
{
    let mut said = false;
    loop {
        let begun = tokio::time::Instant::now();
        let status = again().await;
        // What went on for a while was well.
        if said && begun.elapsed() > BEAT {
            info!("etcd answered again");
            said = false;
        }
        if !said {
            warn!("etcd: {trouble}: {}", super::reason(&status));
            said = true;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn be_there(client: Client, own: String) -> Status {
    let be_there = async {
        let lease = client.lease(LEASE).await?;
        let put = put_leased(&format!("controller/{own}"), Vec::new(), lease);
        client.commit(Vec::new(), vec![put]).await?;
        loop {
            tokio::time::sleep(BEAT).await;
            let renewed = tokio::time::timeout(BEAT, client.renew(lease)).await;
            let renewed = renewed.map_err(|_| Status::unavailable("no answer"))?;
            if !renewed? {
                return Err::<(), _>(Status::aborted("the lease had run out"));
            }
        }
    };
    be_there.await.err().unwrap_or_else(ended)
}

async fn follow(
    client: Client,
    own: String,
    changed: Sender<()>,
    controllers: Sender<BTreeSet<String>>,
) -> Status {
    let follow = async {
        let mut stream = client.watch(&WATCHED).await?;
        while let Some(response) = stream.message().await? {
            if response.canceled {
                return Err(Status::aborted(response.cancel_reason));
            }
            let events = response.events.iter().filter_map(|it| it.kv.as_ref());
            let (there, mesh): (Vec<_>, Vec<_>) = events.partition(|kv| address(kv).is_some());
            // From when a watch is made nothing is missed; what was before has to be looked at.
            if response.created || !mesh.is_empty() {
                changed.send_replace(());
            }
            if response.created || !there.is_empty() {
                look(&client, &own, &controllers).await?;
            }
        }
        Ok(())
    };
    follow.await.err().unwrap_or_else(ended)
}

/// Which other controllers there are.
async fn look(
    client: &Client,
    own: &str,
    controllers: &Sender<BTreeSet<String>>,
) -> Result<(), Status> {
    let there = client.list("controller/", true).await?;
    let there = there.iter().filter_map(address);
    let others: BTreeSet<String> = there.filter(|it| it != own).collect();
    controllers.send_if_modified(|known| {
        let changed = *known != others;
        *known = others;
        changed
    });
    Ok(())
}

fn ended() -> Status {
    Status::unavailable("the stream ended")
}

pub(super) fn address(kv: &KeyValue) -> Option<String> {
    name(kv).strip_prefix("controller/").map(str::to_owned)
}
