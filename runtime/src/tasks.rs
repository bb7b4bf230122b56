//! Supervised tasks: a task that ends without being asked to ends the process, and the error names it.
//!
//! A task that dies silently is the worst failure of a long-running agent: everything looks healthy and nothing moves.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};

use crate::shutdown::Shutdown;

/// Runs named tasks until shutdown.
#[derive(Debug)]
pub struct Supervisor {
    shutdown: Shutdown,
    tasks: JoinSet<Result<(), String>>,
    names: HashMap<Id, &'static str>,
}

/// A task that ended without being asked to, or did not end when asked.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// It returned an error.
    #[error("task `{name}` failed: {message}")]
    Failed {
        /// Name of the task.
        name: &'static str,
        /// Its error, with causes.
        message: String,
    },
    /// It returned although the process continues.
    #[error("task `{0}` ended without being asked to; this is a bug")]
    Ended(&'static str),
    /// It panicked.
    #[error("task `{name}` panicked: {message}; this is a bug")]
    Panicked {
        /// Name of the task.
        name: &'static str,
        /// Message of the panic.
        message: String,
    },
    /// It was still running when the time for the shutdown was over.
    #[error("still running {after:?} after shutdown began: {names}")]
    Late {
        /// Time since the shutdown began.
        after: Duration,
        /// The tasks.
        names: String,
    },
}

impl Supervisor {
    /// A supervisor whose tasks stop with `shutdown`.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, tasks: JoinSet::new(), names: HashMap::new() }
    }

    /// Starts `task`, which must run until shutdown.
    pub fn spawn<E: Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let handle = self.tasks.spawn(async move { task.await.map_err(|error| format!("{error:#}")) });
        self.names.insert(handle.id(), name);
    }

    /// Runs until the shutdown begins or a task ends without being asked to; the other tasks then have `grace` to end.
    ///
    /// # Errors
    /// The first [`TaskError`]; tasks that exceed `grace` are aborted.
    pub async fn run(mut self, grace: Duration) -> Result<(), TaskError> {
        let shutdown = self.shutdown.clone();
        let first = tokio::select! {
            biased;
            () = shutdown.requested() => Ok(()),
            Some(ended) = self.tasks.join_next_with_id() => {
                let unasked = !shutdown.has_begun();
                self.judge(ended, unasked)
            }
        };
        self.shutdown.begin();
        let rest = self.join_all(grace).await;
        first.and(rest)
    }

    async fn join_all(&mut self, grace: Duration) -> Result<(), TaskError> {
        let deadline = tokio::time::Instant::now() + grace;
        let mut first = Ok(());
        loop {
            match tokio::time::timeout_at(deadline, self.tasks.join_next_with_id()).await {
                Ok(None) => return first,
                Ok(Some(ended)) => first = first.and(self.judge(ended, false)),
                Err(_) => {
                    let mut names: Vec<_> = self.names.values().copied().collect();
                    names.sort_unstable();
                    self.tasks.shutdown().await;
                    return first.and(Err(TaskError::Late { after: grace, names: names.join(", ") }));
                }
            }
        }
    }

    fn judge(&mut self, ended: Result<(Id, Result<(), String>), JoinError>, unasked: bool) -> Result<(), TaskError> {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let name = self.names.remove(&id).unwrap_or("unknown");
        match ended {
            Ok((_, Ok(()))) if unasked => Err(TaskError::Ended(name)),
            Ok((_, Ok(()))) => Ok(()),
            Ok((_, Err(message))) => Err(TaskError::Failed { name, message }),
            Err(error) if error.is_panic() => {
                let panic = error.into_panic();
                let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
                let message = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                Err(TaskError::Panicked { name, message })
            }
            Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_millis(200);

    fn well_behaved(shutdown: &Shutdown) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let shutdown = shutdown.clone();
        async move {
            shutdown.requested().await;
            Ok(())
        }
    }

    #[tokio::test]
    async fn task_that_ends_without_being_asked_to_is_named_and_stops_the_others() {
        type Task = std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
        let cases: Vec<(Task, TaskError)> = vec![
            (Box::pin(async { Ok(()) }), TaskError::Ended("odd")),
            (
                Box::pin(async { Err("broken pipe".to_owned()) }),
                TaskError::Failed { name: "odd", message: "broken pipe".into() },
            ),
            (Box::pin(async { panic!("boom") }), TaskError::Panicked { name: "odd", message: "boom".into() }),
        ];
        for (task, expected) in cases {
            let shutdown = Shutdown::new();
            let mut supervisor = Supervisor::new(shutdown.clone());
            supervisor.spawn("good", well_behaved(&shutdown));
            supervisor.spawn("odd", task);
            assert_eq!(supervisor.run(GRACE).await, Err(expected));
            assert!(shutdown.has_begun());
        }
    }

    #[tokio::test]
    async fn orderly_shutdown_is_no_error() {
        let shutdown = Shutdown::new();
        let mut supervisor = Supervisor::new(shutdown.clone());
        supervisor.spawn("good", well_behaved(&shutdown));
        shutdown.begin();
        assert_eq!(supervisor.run(GRACE).await, Ok(()));
    }

    #[tokio::test]
    async fn error_names_a_task_that_ignores_shutdown() {
        let shutdown = Shutdown::new();
        let mut supervisor = Supervisor::new(shutdown.clone());
        supervisor.spawn("deaf", std::future::pending::<Result<(), String>>());
        shutdown.begin();
        let expected = TaskError::Late { after: GRACE, names: "deaf".into() };
        assert_eq!(supervisor.run(GRACE).await, Err(expected));
    }
}
