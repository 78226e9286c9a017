//! Keeps charon as it should be, in a loop of its own: a charon that is slow, stuck or gone holds
//! up nothing in the kernel.
//!
//! The kernel's pass says which connections are wanted, and names only those whose interface is
//! ready: without the interface, an SA would let traffic pass in clear. This loop says what charon
//! has; the kernel's pass keeps an interface for as long as charon has something for it. What is to
//! be done is decided in `plan` and [`heal`].

mod plan;

pub use plan::{definitions, installed, link_of};

use crate::bgp::Bgp;
use crate::config::Offload;
use crate::ipsec::Ipsec;
use crate::liveness::Sign;
use crate::preflight::{self, Host, Release, offload};
use crate::problem::{problem, remark};
use crate::state::{Connection, ours};
use crate::state_dir::StateDir;
use crate::vici::heal::{self, Action, History};
use crate::vici::{self, Audit, Auth, Bind, Definition, Event, IkeSa, Secret, Vici};
use plan::{
    Op, bound, broken, incurable, lacks, narrowed, outdated, plan, statics, tunnels, weaker,
};
use routemesh_proto::{Identity, Problem};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};
use tracing::{debug, info, warn};

/// Between two looks at least: what happens meanwhile is dealt with together.
const BREATH: Duration = Duration::from_millis(50);
/// How long SAs are waited for to be closed.
const CLOSE: Duration = Duration::from_secs(5);
/// And at most, for whatever was missed.
const TICK: Duration = Duration::from_secs(10);

/// What problems with it are told of.
pub const OBJECT: &str = "charon";

/// Connections by name.
pub type Definitions = BTreeMap<String, Definition>;

/// What charon has of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Charon {
    /// Loaded connections, by name.
    pub connections: BTreeMap<String, Connection>,
    /// SAs, also those of connections that are not loaded any more.
    pub sas: Vec<IkeSa>,
    /// SPIs of SAs that are not ours.
    pub others: BTreeSet<u32>,
}

impl Charon {
    /// Interfaces that something in charon belongs to.
    pub fn links(&self) -> BTreeSet<String> {
        let sas = self.sas.iter().map(|sa| &sa.connection);
        let named = self.connections.keys().chain(sas);
        let named = named.map(|name| link_of(name).to_owned());
        let more = self.connections.values().flat_map(|it| &it.more);
        let more = more.map(|number| vici::link(*number));
        let children = self.sas.iter().flat_map(|sa| &sa.children);
        let bound = children.filter_map(|child| child.bind).map(Bind::link);
        named.chain(more).chain(bound).collect()
    }
}

/// The outcome of one look.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// `None` where charon does not answer, or was not asked yet.
    pub charon: Option<Charon>,
    /// What could not be done.
    pub problems: Vec<Problem>,
    /// How often SAs were made anew because charon and the kernel disagreed about them.
    pub repaired: u64,
    /// Connections about to be keyed anew, which traffic had better leave before.
    pub yielding: BTreeSet<String>,
    /// How the last attempt at a connection ended that has not all its SAs as it is now.
    pub refusals: BTreeMap<String, String>,
}

/// One gateway's charon.
pub struct Keeper {
    /// Its commands.
    pub vici: Vici,
    /// Its socket.
    pub socket: PathBuf,
    /// Whose key it is given.
    pub identity: watch::Receiver<Identity>,
    /// Remembers which key that was.
    pub state_dir: Arc<StateDir>,
    /// Told of tunnels that lost their last SA.
    pub bgp: Bgp,
    /// The key that this run has loaded, and its id.
    pub key: Option<(Identity, String)>,
    /// The ids of those before it, until no connection needs them.
    pub old_keys: Vec<String>,
    /// The pre-shared keys that this run has loaded, by connection.
    pub shared: BTreeMap<String, routemesh_proto::Secret>,
    /// On which it runs.
    pub kernel: Release,
}

impl Keeper {
    /// Looks and mends, whenever something is wanted, happened, or is due. Nothing is touched before
    /// it is known what is wanted: an earlier run's tunnels may be up. Ends with `wanted`.
    pub async fn run(
        mut self,
        mut wanted: watch::Receiver<Option<Definitions>>,
        seen: watch::Sender<Seen>,
    ) {
        let mut events = vici::events(self.socket.clone());
        let mut ipsec = Ipsec::open();
        let mut memory = Memory::default();
        loop {
            let began = Instant::now();
            let known = wanted.borrow_and_update().clone();
            let Some(definitions) = known else {
                if wanted.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let (look, again) = self.look(&definitions, &ipsec, &mut memory).await;
            seen.send_replace(look);
            sleep(BREATH).await;
            let due = again.map_or(began + TICK, |at| at.min(began + TICK));
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                Some(event) = events.recv() => {
                    let more = std::iter::from_fn(|| events.try_recv().ok());
                    std::iter::once(event).chain(more).for_each(|it| memory.take(it));
                }
                () = ipsec.deletion() => {}
                () = sleep_until(due.into()) => {}
            }
        }
    }

    /// Where charon says that an SA is gone and that was the last one, the tunnel is dead, and BGP
    /// need not wait for its hold timer; where one is new, it need not wait to connect. Who is dead
    /// is looked at again the next time, whether or not charon says anything by then.
    async fn tell_bgp(
        &self,
        definitions: &Definitions,
        charon: &Charon,
        audit: &Audit,
        told: BTreeSet<String>,
    ) -> BTreeSet<String> {
        let mut dead = BTreeSet::new();
        for name in told {
            let Some(definition) = definitions.get(&name) else {
                continue;
            };
            for child in &definition.children {
                let there = charon.sas.iter().flat_map(|sa| bound(sa, child.bind));
                let mut whole = there
                    .filter(|it| !audit.broken.contains(&it.unique_id))
                    .filter(|it| it.takes(child.reached.iter().flatten()));
                // Who has no BGP says nothing of it that a new charon knows of no SA.
                let forgotten = audit.serving.contains(&child.bind.number());
                let there = whole.next().is_some() || child.reached.is_some() && forgotten;
                self.bgp.sign(&child.way, Sign::Sa(there)).await;
                if !there {
                    dead.insert(name.clone());
                }
            }
        }
        dead
    }

    /// Observes, plans, applies, heals; says when the next look is due at the latest.
    async fn look(
        &mut self,
        wanted: &Definitions,
        ipsec: &Ipsec,
        memory: &mut Memory,
    ) -> (Seen, Option<Instant>) {
        let repaired = memory.repaired;
        let unreachable = |error: &vici::Error| Seen {
            // Where all tunnels are WireGuard's, nobody needs it.
            problems: match wanted.is_empty() {
                true => Vec::new(),
                false => vec![problem(OBJECT, error)],
            },
            repaired,
            ..Seen::default()
        };
        let mut problems = Vec::new();
        let before = ipsec.list(&mut problems).await;
        let mut charon = match self.observe().await {
            Ok(charon) => charon,
            Err(error) => return (unreachable(&error), None),
        };
        let mut audit = ipsec.audit(&charon, before, &mut problems).await;
        let doubt = {
            let now = Instant::now();
            memory.suspects.confirm(&mut audit, &charon.sas, now)
        };
        let told = std::mem::take(&mut memory.told).into_iter();
        let told = told.chain(broken(wanted, &charon.sas, &audit));
        let told = told.chain(statics(wanted)).collect();
        memory.told = self.tell_bgp(wanted, &charon, &audit, told).await;
        let refused = match self.refused(wanted).await {
            Ok(refused) => refused,
            Err(error) => return (unreachable(&error), None),
        };
        match self.share_keys(wanted).await {
            Ok(()) => {}
            Err(error) if is_refusal(&error) => problems.push(problem("pre-shared key", &error)),
            Err(error) => return (unreachable(&error), None),
        }
        let lacks = |name: &String, _: &mut String| lacks(wanted.get(name), &charon.sas);
        memory.refusals.retain(lacks);
        problems.extend(outdated(wanted, &charon.sas, &memory.refusals));
        problems.extend(weaker(wanted, &charon.sas));
        problems.extend(narrowed(wanted, &charon.sas));
        problems.extend(incurable(wanted, &audit));
        for (name, reason) in &refused {
            problems.push(remark(format!("connection {name}"), reason));
        }
        for op in plan(wanted, &charon.connections) {
            let (name, done) = match op {
                Op::Load(name) if refused.contains_key(&name) => continue,
                Op::Load(name) => {
                    let done = self.load(&name, wanted, &mut charon).await;
                    (name, done)
                }
                Op::Unload(name) => {
                    let done = unload(&self.vici, &name).await;
                    info!(tunnel = name, "unload connection {name}");
                    charon.connections.remove(&name);
                    (name, done)
                }
            };
            match done {
                Ok(()) => {}
                Err(error) if is_refusal(&error) => {
                    problems.push(problem(format!("connection {name}"), &error));
                }
                // It would take the rest just as long to fail.
                Err(error) => return (unreachable(&error), None),
            }
        }
        if let Err(error) = self.forget_keys(wanted).await {
            return (unreachable(&error), None);
        }
        let now = Instant::now();
        let tunnels = tunnels(wanted, &charon.connections);
        let heal = heal::wanted(&tunnels, &charon.sas, &audit, &memory.history, now);
        memory.history = heal.history;
        for name in heal.repaired {
            info!(
                tunnel = name,
                "charon and the kernel disagree about the SAs of {name}: they are made anew"
            );
            memory.repaired += 1;
        }
        for action in heal.actions {
            // Of one that was refused, nothing may be loaded.
            let loaded = |name| charon.connections.contains_key(name);
            if matches!(&action, Action::Initiate { connection, .. } if !loaded(connection)) {
                continue;
            }
            debug!("{action:?}");
            match self.perform(&action, ipsec, &mut problems).await {
                Ok(()) => {}
                Err(error) if is_refusal(&error) => problems.push(problem(OBJECT, &error)),
                Err(error) => return (unreachable(&error), None),
            }
        }
        let seen = Seen {
            charon: Some(charon),
            problems,
            repaired: memory.repaired,
            yielding: heal.yielding,
            refusals: memory.refusals.clone(),
        };
        (seen, heal.again.into_iter().chain(doubt).min())
    }

    /// What charon has. Our key is part of it: a charon that was restarted has none.
    async fn observe(&mut self) -> Result<Charon, vici::Error> {
        let held = self.vici.keys().await?;
        let saved = self.state_dir.key_id();
        let identity = self.identity.borrow().clone();
        let is_held = |(own, id): &(Identity, String)| *own == identity && held.contains(id);
        // Once in every run: since the last, the key may have been renewed.
        if !self.key.as_ref().is_some_and(is_held) {
            let key = Secret::new(identity.expose_key().to_owned());
            let id = self.vici.load_key(&key).await?;
            let before = self.key.take().map(|(_, id)| id).into_iter().chain(saved);
            let old = before.filter(|old| *old != id && held.contains(old));
            self.old_keys.extend(old);
            self.state_dir.save_key_id(&id);
            self.key = Some((identity, id));
        }
        let connections = self.vici.connections().await?;
        let (sas, others) = self.vici.all_sas().await?;
        Ok(Charon {
            connections,
            sas,
            others,
        })
    }

    /// Unloads keys that were renewed, once all connections are wanted with the new certificate, and so have
    /// been loaded with it.
    async fn forget_keys(&mut self, wanted: &Definitions) -> Result<(), vici::Error> {
        let Some((identity, id)) = &self.key else {
            return Ok(());
        };
        let mut all = wanted.values();
        if !self.old_keys.is_empty() && all.all(|it| it.is_of(&identity.certificate)) {
            for old in self.old_keys.drain(..).filter(|old| old != id) {
                self.vici.unload_key(&old).await?;
            }
        }
        Ok(())
    }

    /// The connections that this host cannot have as they are wanted, and why: what is loaded of them
    /// stays.
    async fn refused(&self, wanted: &Definitions) -> Result<BTreeMap<String, String>, vici::Error> {
        let mut host = Host {
            charon: self.vici.version().await?.version,
            kernel: self.kernel.clone(),
            offload: None,
        };
        let mut refused = BTreeMap::new();
        for (name, definition) in wanted {
            host.offload = match definition.esp.hw_offload {
                Offload::No | Offload::Auto => None,
                Offload::Crypto | Offload::Packet => {
                    definition.local_addrs.iter().find_map(|it| offload::at(it))
                }
            };
            if let Some(reason) = preflight::refusal(&definition.esp, &host) {
                refused.insert(name.clone(), reason);
            }
        }
        Ok(refused)
    }

    async fn load(
        &self,
        name: &str,
        wanted: &Definitions,
        charon: &mut Charon,
    ) -> Result<(), vici::Error> {
        let Some(definition) = wanted.get(name) else {
            return Ok(());
        };
        self.vici.load(name, definition).await?;
        info!(tunnel = name, "load connection {name}");
        let children = definition.children.iter().skip(1);
        let more = children.map(|child| child.bind.number().wrapping_sub(ours::IF_ID));
        let connection = Connection {
            digest: definition.digest(),
            more: more.collect(),
        };
        charon.connections.insert(name.to_owned(), connection);
        Ok(())
    }

    /// Makes charon have the pre-shared keys of these connections, and none of others of ours. Once in
    /// every run each is loaded whatever is there: since the last it may have been changed.
    async fn share_keys(&mut self, wanted: &Definitions) -> Result<(), vici::Error> {
        let held = self.vici.shared().await?;
        for (name, definition) in wanted {
            let Auth::Psk(key) = &definition.auth else {
                continue;
            };
            if !held.contains(name) || self.shared.get(name) != Some(key) {
                let owner = &definition.remote_id;
                self.vici.load_shared(name, key, owner).await?;
                self.shared.insert(name.clone(), key.clone());
            }
        }
        let stays = |name: &String| wanted.get(name).is_some_and(Definition::is_foreign);
        for name in held.iter().filter(|name| !stays(name)) {
            self.vici.unload_shared(name).await?;
        }
        self.shared.retain(|name, _| stays(name));
        Ok(())
    }

    async fn perform(
        &self,
        action: &Action,
        ipsec: &Ipsec,
        problems: &mut Vec<Problem>,
    ) -> Result<(), vici::Error> {
        match action {
            Action::Initiate { connection, child } => self.vici.initiate(connection, child).await,
            Action::Terminate { unique_id } => self.vici.terminate(*unique_id).await,
            Action::TerminateChild { unique_id } => self.vici.terminate_child(*unique_id).await,
            Action::Clear(sa) => {
                info!("delete an SA to {} that charon does not know of", sa.to);
                problems.extend(ipsec.delete(sa).await);
                Ok(())
            }
        }
    }
}

/// What is known from one look to the next.
#[derive(Default)]
struct Memory {
    history: History,
    suspects: vici::Suspects,
    /// Connections that BGP is to be told of.
    told: BTreeSet<String>,
    /// As in [`Seen::repaired`].
    repaired: u64,
    /// As in [`Seen::refusals`].
    refusals: BTreeMap<String, String>,
}

impl Memory {
    fn take(&mut self, event: Event) {
        match event {
            Event::ConnectionUp(name) | Event::ConnectionDown(name) => {
                self.told.insert(name);
            }
            Event::Refused { connection, reason } => {
                let before = self.refusals.insert(connection.clone(), reason.clone());
                if before.as_ref() != Some(&reason) {
                    warn!(tunnel = connection, "no SA of {connection}: {reason}");
                }
            }
            Event::Resync | Event::Lost | Event::Rekeyed(_) => {}
        }
    }
}

/// charon answered, if only to say no.
fn is_refusal(error: &vici::Error) -> bool {
    matches!(
        error,
        vici::Error::Refused { .. } | vici::Error::TooLong { .. }
    )
}

/// Unloads a connection and closes its SAs, which would outlive it.
async fn unload(vici: &Vici, name: &str) -> Result<(), vici::Error> {
    vici.unload(name).await?;
    for sa in vici.sas().await?.iter().filter(|sa| sa.connection == name) {
        vici.terminate(sa.unique_id).await?;
    }
    Ok(())
}

/// Takes all that is ours from charon, and nothing else. What failed is returned.
pub async fn down(vici: &Vici, state_dir: &StateDir) -> Vec<Problem> {
    match clear(vici, state_dir).await {
        Ok(0) => Vec::new(),
        Ok(left) => vec![remark(
            OBJECT,
            &format!("{left} SAs are still waiting for their peers; they end by themselves"),
        )],
        Err(error) => vec![problem(OBJECT, &error)],
    }
}

/// Returns how many SAs are still being closed after a while: a peer may not answer.
async fn clear(vici: &Vici, state_dir: &StateDir) -> Result<usize, vici::Error> {
    for name in vici.connections().await?.keys() {
        vici.unload(name).await?;
    }
    for sa in vici.sas().await? {
        vici.terminate(sa.unique_id).await?;
    }
    for id in vici.shared().await? {
        vici.unload_shared(&id).await?;
    }
    if let Some(id) = state_dir.key_id() {
        vici.unload_key(&id).await?;
    }
    let began = Instant::now();
    loop {
        let left = vici.sas().await?.len();
        if left == 0 || began.elapsed() > CLOSE {
            return Ok(left);
        }
        sleep(BREATH).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_known_by_their_connections() {
        let charon = Charon {
            connections: BTreeMap::from([(
                "rm12-V2-1".to_owned(),
                Connection {
                    digest: String::new(),
                    more: [14].into(),
                },
            )]),
            sas: Vec::new(),
            others: BTreeSet::new(),
        };
        assert_eq!(charon.links(), ["rm12", "rm14"].map(String::from).into());
    }
}
