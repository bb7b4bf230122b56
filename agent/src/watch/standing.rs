//! How a type stands, as it is seen at the board and at its gate.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use meshsync_runtime::readiness::{Gate, Readiness};

use super::board::{Board, NamespaceReport, Narrowed, Phase};
use crate::apiserver::request::RequestError;

/// How long a type that fails holds up readiness.
const GATES_FOR: Duration = Duration::from_secs(30);
/// Namespaces that a gate names.
const NAMED: usize = 10;

/// Name of the gate of a type.
pub(super) fn gate_name(name: &str) -> String {
    format!("type/{name}")
}

/// See the module. A namespace is none for what concerns the type as a whole.
pub(super) struct Standing {
    name: String,
    board: Arc<Board>,
    readiness: Readiness,
    /// Holds up readiness until the first list is complete or has failed for long; then it shows what fails, and in which
    /// namespaces the type is watched.
    gate: Mutex<Option<Gate>>,
}

impl Standing {
    pub(super) fn new(name: &str, board: Arc<Board>, readiness: Readiness, gate: Option<Gate>) -> Self {
        let this = Self { name: name.to_owned(), board, readiness, gate: Mutex::new(gate) };
        // A loop before this one may have ended anywhere.
        this.leave_namespaces();
        this
    }

    /// A list is complete.
    pub(super) fn listed(&self, namespace: Option<&str>) {
        match namespace {
            None => drop(self.lock().take().inspect(Gate::open)),
            Some(namespace) => {
                self.change(namespace, |part| part.is_listed = true);
                self.settle_gate();
            }
        }
    }

    /// A watch is open.
    pub(super) fn live(&self, namespace: Option<&str>) {
        let Some(namespace) = namespace else {
            self.listed(None);
            self.board.set_phase(&self.name, Phase::Live);
            return;
        };
        let live = NamespaceReport { phase: Phase::Live, is_listed: true, last_error: String::new() };
        if let Some(narrowed) = self.change(namespace, |part| *part = live) {
            self.board.set_phase(&self.name, narrowed.phase());
        }
        self.settle_gate();
    }

    /// What was tried `since` then failed.
    pub(super) fn failed(&self, namespace: Option<&str>, since: Timestamp, error: &RequestError, phase: Phase) {
        let message = error.to_string();
        let Some(namespace) = namespace else { return self.fails(since, error, &message, phase) };
        let failed = |part: &mut NamespaceReport| (part.phase, part.last_error) = (phase, message.clone());
        let Some(narrowed) = self.change(namespace, failed) else { return };
        match (narrowed.phase(), phase) {
            // What the server says of the whole type says most.
            (Phase::Refused, _) => self.fails(since, error, &narrowed.refusal, Phase::Refused),
            (overall, Phase::Refused) => {
                self.board.set_phase(&self.name, overall);
                self.settle_gate();
            }
            (overall, _) => self.fails(since, error, &format!("in namespace {namespace}: {message}"), overall),
        }
    }

    /// Whether nothing of the type may be read.
    pub(super) fn is_refused(&self) -> bool {
        self.narrowed().is_some_and(|narrowed| narrowed.phase() == Phase::Refused)
    }

    /// From here on `namespaces` are told apart, since the type as a whole met with `refusal`. Nothing is told of what was
    /// listed before while they are listed.
    pub(super) fn enter_namespaces(&self, namespaces: &[String], refusal: &RequestError, is_listed: bool) {
        let phase = if is_listed { Phase::Behind } else { Phase::Pending };
        let part = NamespaceReport { phase, ..NamespaceReport::default() };
        let narrowed = Narrowed {
            since: Timestamp::now(),
            refusal: refusal.to_string(),
            namespaces: namespaces.iter().map(|name| (name.clone(), part.clone())).collect(),
        };
        self.board.update(&self.name, |report| report.narrowed = Some(narrowed));
        self.board.set_phase(&self.name, phase);
    }

    /// The type is one again.
    pub(super) fn leave_namespaces(&self) {
        self.board.update(&self.name, |report| report.narrowed = None);
    }

    fn change(&self, namespace: &str, change: impl FnOnce(&mut NamespaceReport)) -> Option<Narrowed> {
        let mut changed = None;
        self.board.update(&self.name, |report| {
            if let Some(narrowed) = &mut report.narrowed {
                change(narrowed.namespaces.entry(namespace.to_owned()).or_default());
            }
            changed.clone_from(&report.narrowed);
        });
        changed
    }

    fn narrowed(&self) -> Option<Narrowed> {
        self.board.report(&self.name)?.narrowed
    }

    fn fails(&self, since: Timestamp, error: &RequestError, message: &str, phase: Phase) {
        let failing_for = self.board.failed(&self.name, since, error.word(), message);
        self.board.set_phase(&self.name, phase);
        self.show_at_gate(message, phase, failing_for);
    }

    /// What fails is seen at `/readyz`, and does not keep everything else from being ready for ever.
    fn show_at_gate(&self, reason: &str, phase: Phase, failing_for: Duration) {
        let mut gate = self.lock();
        let gate = gate.get_or_insert_with(|| self.readiness.gate_waived(gate_name(&self.name), reason));
        gate.close(reason);
        match phase {
            Phase::Pending => gate.waive_after(GATES_FOR.saturating_sub(failing_for)),
            Phase::Live | Phase::Behind | Phase::Refused | Phase::Gone => gate.waive_after(Duration::ZERO),
        }
    }

    /// Lets the gate tell of the namespaces once each that may be read was listed, and none fails.
    fn settle_gate(&self) {
        let Some(narrowed) = self.narrowed() else { return };
        let is_settled =
            |part: &NamespaceReport| part.phase == Phase::Refused || (part.is_listed && part.last_error.is_empty());
        let is_readable = narrowed.phase() != Phase::Refused;
        if !is_readable || !narrowed.namespaces.values().all(is_settled) {
            return;
        }
        let mut gate = self.lock();
        let gate = gate.get_or_insert_with(|| self.readiness.gate_waived(gate_name(&self.name), ""));
        gate.open_with(note(&narrowed));
    }

    fn lock(&self) -> MutexGuard<'_, Option<Gate>> {
        // A panic could leave nothing half changed.
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a type is watched.
fn note(narrowed: &Narrowed) -> String {
    let list = |names: Vec<String>| match names.len().checked_sub(NAMED) {
        Some(more @ 1..) => {
            format!("{} and {more} more", names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", "))
        }
        _ => names.join(", "),
    };
    let refused = narrowed.names(true);
    let but = if refused.is_empty() { String::new() } else { format!("; refused in {}", list(refused)) };
    format!("watched in {} only, since it may not be in all namespaces{but}", list(narrowed.names(false)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_gate_names_some_of_many_namespaces() {
        let part = |phase| NamespaceReport { phase, ..NamespaceReport::default() };
        let parts = |range: std::ops::Range<usize>, phase| range.map(move |at| (format!("n{at:02}"), part(phase)));
        let namespaces: BTreeMap<_, _> = parts(0..2, Phase::Live).chain(parts(10..25, Phase::Refused)).collect();
        let narrowed = Narrowed { since: Timestamp::UNIX_EPOCH, refusal: String::new(), namespaces };
        let said = "watched in n00, n01 only, since it may not be in all namespaces; \
                    refused in n10, n11, n12, n13, n14, n15, n16, n17, n18, n19 and 5 more";
        assert_eq!(note(&narrowed), said);
    }
}
