//! What is closed, and when: too many SAs, broken ones, what hangs and what nobody wants any more.

use super::{Action, Bind, ChildSa, ChildState, IkeSa, IkeState, Sa};
use super::{
    DUPLICATES_STAY, ORPHANS_STAY, Pass, RESPONDER_CLOSES, SETTLED, SOON, STUCK, Wanted, Working,
};
use std::time::Instant;

impl Pass<'_> {
    /// There is a current SA: close what is too many, in time.
    pub(super) fn present(
        &mut self,
        wanted: &Wanted,
        kept: Working,
        others: &[Working],
        idle: Vec<&IkeSa>,
    ) {
        if kept.1.installed.is_none_or(|age| age < SETTLED)
            && let Some(attempts) = self.before.attempts.get(&wanted.bind)
        {
            let attempts = *attempts;
            self.heal.history.attempts.insert(wanted.bind, attempts);
        }
        if others.is_empty() && idle.is_empty() {
            return;
        }
        let since = self.since(|history| &history.duplicates, wanted.bind);
        self.heal.history.duplicates.insert(wanted.bind, since);
        let patience = if wanted.initiate {
            DUPLICATES_STAY
        } else {
            RESPONDER_CLOSES
        };
        if !self.due(since + patience) {
            return;
        }
        self.close_all(kept, others);
        for ike in idle {
            self.close(ike);
        }
    }

    /// Closes all these but one to keep. An IKE_SA that carries another interface as well stays.
    fn close_all(&mut self, kept: Working, others: &[Working]) {
        for (ike, child) in others {
            let serves_another = ike
                .children
                .iter()
                .any(|it| it.state == ChildState::Installed && it.bind != child.bind);
            if ike.unique_id == kept.0.unique_id || serves_another {
                self.close_child(child);
            } else {
                self.close(ike);
            }
        }
    }

    /// The kernel lacks something of all SAs there are: nothing comes through, and the peer does not see
    /// it.
    pub(super) fn broken(&mut self, wanted: &Wanted, all: &[Working]) {
        self.remember(wanted);
        self.mending(wanted);
        for (ike, child) in all {
            let unique_id = child.unique_id;
            let asked = self.ask(Action::TerminateChild { unique_id });
            // It waits for another exchange, which the peer does not answer.
            if self.due(asked + STUCK) {
                self.close(ike);
            }
        }
        // charon would not make one beside one that equals it.
        self.due(self.now + SOON);
    }

    /// Deletes what charon does not know of, in time.
    pub(super) fn clear(&mut self, orphans: &[Sa]) {
        for sa in orphans {
            let since = *self.before.orphans.get(sa).unwrap_or(&self.now);
            self.heal.history.orphans.insert(sa.clone(), since);
            if self.due(since + ORPHANS_STAY) {
                self.heal.actions.push(Action::Clear(sa.clone()));
            }
        }
    }

    /// Closes what has been in the making for too long; whether there was any.
    pub(super) fn stuck(&mut self, making: &[&IkeSa]) -> bool {
        let mut any = false;
        for ike in making {
            let since = *self
                .heal
                .history
                .making
                .get(&ike.unique_id)
                .unwrap_or(&self.now);
            let works = ike
                .children
                .iter()
                .any(|child| child.state == ChildState::Installed);
            // An IKE_SA with a child in use has charon's own retransmission to end it.
            if !works && self.due(since + STUCK) {
                self.close(ike);
                any = true;
            }
        }
        any
    }

    /// Closes an IKE_SA that belongs to no connection, be it by name or by interface; and of one that
    /// does, what belongs to an interface of ours that nothing is wanted of any more.
    pub(super) fn left_over(&mut self, ike: &IkeSa) {
        let connections = self.connections;
        let named = connections
            .iter()
            .any(|wanted| wanted.connection == ike.connection);
        let bound = ike
            .children
            .iter()
            .filter_map(|child| child.bind)
            .any(|bind| connections.iter().any(|wanted| wanted.bind == bind));
        if ike.state == IkeState::Closing {
            return;
        }
        if !named && !bound {
            self.close(ike);
            return;
        }
        let wanted = |bind: Bind| {
            connections
                .iter()
                .any(|it| it.bind.number() == bind.number())
        };
        let unwanted = |child: &&ChildSa| {
            let bind = child.bind.filter(|it| it.is_ours());
            child.state == ChildState::Installed && bind.is_some_and(|it| !wanted(it))
        };
        for child in ike.children.iter().filter(unwanted) {
            self.close_child(child);
        }
    }

    pub(super) fn close(&mut self, ike: &IkeSa) {
        let unique_id = ike.unique_id;
        self.insist(Action::Terminate { unique_id });
        self.due(self.now + SOON);
    }

    /// One that nobody misses.
    fn close_child(&mut self, child: &ChildSa) {
        let unique_id = child.unique_id;
        self.insist(Action::TerminateChild { unique_id });
    }

    /// Asks charon to close something, and again if it is still there after some time.
    fn insist(&mut self, action: Action) {
        let asked = self.ask(action.clone());
        if self.due(asked + STUCK) {
            self.heal.history.asked.insert(action.clone(), self.now);
            self.heal.actions.push(action);
        }
    }

    /// Asks charon to close something, once: each time it would be one exchange more. Since when?
    fn ask(&mut self, action: Action) -> Instant {
        let asked = self.heal.history.asked.get(&action);
        let asked = asked.or_else(|| self.before.asked.get(&action)).copied();
        if asked.is_none() {
            self.heal.actions.push(action.clone());
        }
        let asked = asked.unwrap_or(self.now);
        self.heal.history.asked.insert(action, asked);
        asked
    }
}
