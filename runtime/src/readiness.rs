//! Readiness as a set of named gates: the process is ready when every gate is open, and its report says which are
//! closed and why.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

/// Distinguishes gates of the same name.
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
    /// Why it is closed; `None` if it is open.
    closed: Option<String>,
    /// A remark about an open gate.
    note: Option<String>,
    since: Timestamp,
    /// When it stops delaying readiness although it is closed.
    waived_from: Option<Instant>,
}

impl State {
    fn is_waived(&self) -> bool {
        self.closed.is_some() && self.waived_from.is_some_and(|from| from <= Instant::now())
    }
}

/// A gate. Dropping it removes it.
#[derive(Debug)]
pub struct Gate {
    id: u64,
    name: String,
    readiness: Readiness,
}

/// All gates at a moment, as `/readyz` shows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether every gate is open or waived.
    pub ready: bool,
    /// The gates by name.
    pub gates: Vec<GateReport>,
}

/// A gate at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GateReport {
    /// Its name.
    pub name: String,
    /// Whether it is open.
    pub ready: bool,
    /// Whether it is closed without delaying readiness.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub waived: bool,
    /// Why it is closed, or a remark about an open gate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it is open or closed.
    pub since: Timestamp,
}

impl Readiness {
    /// Adds a gate that is closed for `reason`. A second gate of the same name replaces the first: setting or dropping
    /// the first then has no effect.
    #[must_use]
    pub fn gate(&self, name: impl Into<String>, reason: impl Into<String>) -> Gate {
        self.insert(name.into(), reason.into(), None)
    }

    /// Like [`Readiness::gate`], but waived from the beginning: it only informs.
    #[must_use]
    pub fn gate_waived(&self, name: impl Into<String>, reason: impl Into<String>) -> Gate {
        self.insert(name.into(), reason.into(), Some(Instant::now()))
    }

    fn insert(&self, name: String, reason: String, waived_from: Option<Instant>) -> Gate {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let state = State { id, closed: Some(reason), note: None, since: Timestamp::now(), waived_from };
        self.lock().insert(name.clone(), state);
        Gate { id, name, readiness: self.clone() }
    }

    /// Whether every gate is open or waived.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(|state| state.closed.is_none() || state.is_waived())
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
                waived: state.is_waived(),
                reason: state.closed.clone().or_else(|| state.note.clone()),
                since: state.since,
            })
            .collect();
        Report { ready: gates.iter().all(|gate| gate.ready || gate.waived), gates }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        // No code under the lock can leave the map half changed.
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// Opens the gate.
    pub fn open(&self) {
        self.set(None, None);
    }

    /// Opens the gate with a remark that people should see. The process stays ready.
    pub fn open_with(&self, note: impl Into<String>) {
        self.set(None, Some(note.into()));
    }

    /// Closes the gate for `reason`.
    pub fn close(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()), None);
    }

    /// Waives the gate after `time`: from then on it informs without delaying readiness. Has no effect if the gate is
    /// waived earlier.
    pub fn waive_after(&self, time: Duration) {
        let from = Instant::now() + time;
        if let Some(state) = self.readiness.lock().get_mut(&self.name).filter(|state| state.id == self.id) {
            state.waived_from = Some(state.waived_from.map_or(from, |before| before.min(from)));
        }
    }

    fn set(&self, closed: Option<String>, note: Option<String>) {
        if let Some(state) = self.readiness.lock().get_mut(&self.name).filter(|state| state.id == self.id) {
            if state.closed.is_some() != closed.is_some() {
                state.since = Timestamp::now();
            }
            (state.closed, state.note) = (closed, note);
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let mut gates = self.readiness.lock();
        // `gate = readiness.gate(..)` drops the old gate after creating the new one: removing by name would make the
        // process ready.
        if gates.get(&self.name).is_some_and(|state| state.id == self.id) {
            gates.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_is_ready_when_every_gate_is_open() {
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
    fn replaced_gate_does_not_remove_its_successor() {
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

    #[tokio::test(start_paused = true)]
    async fn waived_gate_informs_without_delaying_readiness() {
        let readiness = Readiness::default();
        let gate = readiness.gate("type/pods", "no webhook");
        gate.waive_after(Duration::from_secs(30));
        gate.waive_after(Duration::from_secs(300));
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(!readiness.is_ready() && !readiness.report().ready);
        tokio::time::advance(Duration::from_secs(1)).await;
        let report = readiness.report();
        assert!(readiness.is_ready() && report.ready);
        let told = &report.gates[0];
        assert_eq!((told.ready, told.waived, told.reason.as_deref()), (false, true, Some("no webhook")));
        let _later = readiness.gate_waived("type/nodes", "not complete");
        assert!(readiness.is_ready());
        gate.open();
        assert!(!readiness.report().gates[1].waived, "what is open needs no waiver");
    }

    #[test]
    fn remark_about_an_open_gate_is_shown_and_keeps_the_process_ready() {
        let readiness = Readiness::default();
        let gate = readiness.gate("discovery", "not asked yet");
        gate.open_with("no answer since noon");
        let report = readiness.report();
        assert!(readiness.is_ready() && report.ready && report.gates[0].ready);
        assert_eq!(report.gates[0].reason.as_deref(), Some("no answer since noon"));
        gate.open();
        assert_eq!(readiness.report().gates[0].reason, None);
    }

    #[test]
    fn since_changes_only_when_the_gate_opens_or_closes() {
        let readiness = Readiness::default();
        let gate = readiness.gate("g", "one");
        let since = readiness.report().gates[0].since;
        gate.close("two");
        let gates = readiness.report().gates;
        assert_eq!((gates[0].since, gates[0].reason.as_deref()), (since, Some("two")));
    }
}
