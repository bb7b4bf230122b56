//! Readiness as a set of named gates: the process is ready when every gate is open, and says which are not and why.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

/// Tells apart gates of one name.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// All gates of a process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    gates: Arc<Mutex<BTreeMap<String, State>>>,
}

#[derive(Clone, Debug)]
struct State {
    /// The gate that owns this entry.
    id: u64,
    /// Why it is closed; open if none.
    closed: Option<String>,
    since: Timestamp,
}

/// One gate. It goes away when it is dropped.
#[derive(Debug)]
pub struct Gate {
    id: u64,
    name: String,
    readiness: Readiness,
}

/// All gates at one moment, as `/readyz` shows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether every gate is open.
    pub ready: bool,
    /// The gates by name.
    pub gates: Vec<GateReport>,
}

/// One gate at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GateReport {
    /// Its name.
    pub name: String,
    /// Whether it is open.
    pub ready: bool,
    /// Why it is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it is open or closed.
    pub since: Timestamp,
}

impl Readiness {
    /// Adds a gate, closed for `reason`. A second gate of the same name takes the place of the first, which then has no
    /// effect any more: neither setting nor dropping it touches its successor.
    #[must_use]
    pub fn gate(&self, name: impl Into<String>, reason: impl Into<String>) -> Gate {
        let name = name.into();
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(name.clone(), State { id, closed: Some(reason.into()), since: Timestamp::now() });
        Gate { id, name, readiness: self.clone() }
    }

    /// Whether every gate is open.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(|state| state.closed.is_none())
    }

    /// All gates now.
    #[must_use]
    pub fn report(&self) -> Report {
        let gates: Vec<GateReport> = self
            .lock()
            .iter()
            .map(|(name, state)| GateReport {
                name: name.clone(),
                ready: state.closed.is_none(),
                reason: state.closed.clone(),
                since: state.since,
            })
            .collect();
        Report { ready: gates.iter().all(|gate| gate.ready), gates }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        // Nothing under the lock can leave the map half changed.
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// The condition holds.
    pub fn open(&self) {
        self.set(None);
    }

    /// The condition does not hold, and why.
    pub fn close(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, closed: Option<String>) {
        if let Some(state) = self.readiness.lock().get_mut(&self.name).filter(|state| state.id == self.id) {
            if state.closed.is_some() != closed.is_some() {
                state.since = Timestamp::now();
            }
            state.closed = closed;
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let mut gates = self.readiness.lock();
        // `gate = readiness.gate(..)` drops the old one after the new one was made: the process would pass for ready.
        if gates.get(&self.name).is_some_and(|state| state.id == self.id) {
            gates.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_every_gate_is_open() {
        let readiness = Readiness::default();
        assert!(readiness.is_ready());
        let pods = readiness.gate("pods", "first list not complete");
        let broker = readiness.gate("broker", "not connected");
        pods.open();
        assert!(!readiness.is_ready());
        let report = readiness.report();
        assert_eq!(
            report.gates.iter().map(|g| (g.name.as_str(), g.ready)).collect::<Vec<_>>(),
            [("broker", false), ("pods", true)]
        );
        assert_eq!(report.gates[0].reason.as_deref(), Some("not connected"));
        drop(broker);
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_gate_that_was_replaced_does_not_take_its_successor_away() {
        let readiness = Readiness::default();
        let first = readiness.gate("type/pods", "first loop");
        let second = readiness.gate("type/pods", "second loop");
        first.open();
        assert_eq!(readiness.report().gates[0].reason.as_deref(), Some("second loop"));
        drop(first);
        assert!(!readiness.is_ready());
        second.open();
        assert!(readiness.is_ready());
        drop(second);
        assert_eq!(readiness.report().gates, []);
    }

    #[test]
    fn since_moves_only_when_the_gate_does() {
        let readiness = Readiness::default();
        let gate = readiness.gate("g", "one");
        let since = readiness.report().gates[0].since;
        gate.close("two");
        let gates = readiness.report().gates;
        assert_eq!((gates[0].since, gates[0].reason.as_deref()), (since, Some("two")));
    }
}
