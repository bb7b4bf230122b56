//! How messages are delivered, for status and metrics.

use std::sync::{Mutex, MutexGuard, PoisonError};

use meshsync_crds::Delivery;

/// How messages are delivered now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryState {
    /// `None` until a broker was reached.
    pub mode: Option<Delivery>,
    /// Why it is not the stronger one; empty when it is.
    pub reason: String,
    /// What the stream says to messages that it refuses.
    pub refusal: Option<String>,
}

/// A [`DeliveryState`] to be shared.
#[derive(Debug, Default)]
pub struct DeliveryBoard {
    state: Mutex<DeliveryState>,
}

impl DeliveryBoard {
    /// A copy of the state.
    #[must_use]
    pub fn state(&self) -> DeliveryState {
        self.lock().clone()
    }

    pub(super) fn set_mode(&self, mode: Delivery, reason: String) {
        let mut state = self.lock();
        if state.mode != Some(mode) || state.reason != reason {
            match mode {
                Delivery::JetStream => tracing::info!("publishing through JetStream: stored and confirmed"),
                Delivery::Core => {
                    tracing::warn!(reason, "publishing through core NATS: who is not connected misses what is sent");
                }
            }
        }
        *state = DeliveryState { mode: Some(mode), reason, refusal: None };
    }

    pub(super) fn set_refusal(&self, refusal: Option<String>) {
        self.lock().refusal = refusal;
    }

    fn lock(&self) -> MutexGuard<'_, DeliveryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
