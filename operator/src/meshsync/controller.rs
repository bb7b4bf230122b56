//! Runs the five steps for a MeshSync whenever it, or something that it depends on, changes.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::rbac::v1::PolicyRule;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::{Client, ResourceExt};
use meshsync_crds::names::{GROUP, OPERATOR_FIELD_MANAGER, VERSION};
use meshsync_crds::{MeshSync, MeshSyncStatus};

use super::apply::{Applied, apply, ensure_broker_secret};
use super::build::build;
use super::context::Context;
use super::dereference::{Dereferenced, dereference};
use super::events::{announce, warn};
use super::status::{Outcome, status};
use super::validate::{Validated, validate};
use crate::error::{Class, Error};

/// How long an agent may take to apply a configuration before the operator replaces its pod.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(60);
/// Time until a healthy MeshSync is reconciled again; spread over up to twice this time.
const RELAX: Duration = Duration::from_secs(1800);

/// How often to read Secrets that users created: watching all Secrets of the cluster for them would be too expensive.
const SECRETS_EVERY: Duration = Duration::from_secs(60);

/// Reconciles one MeshSync.
///
/// # Errors
/// The error, from which [`on_error`] decides when to try again.
pub async fn reconcile(meshsync: Arc<MeshSync>, context: Arc<Context>) -> Result<Action, Error> {
    let started = Instant::now();
    let result = reconcile_once(&meshsync, &context).await;
    context.metrics.reconciled(started.elapsed(), &result);
    result
}

async fn reconcile_once(meshsync: &MeshSync, context: &Context) -> Result<Action, Error> {
    if meshsync.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let cluster_info = context.cluster_info.borrow().clone();
    let Some(cluster_info) = cluster_info else {
        return Err(Error::Waiting("discovery has not been read yet".to_owned()));
    };
    let read = async || dereference(&context.client, meshsync.clone(), cluster_info.clone()).await;
    let mut input = read().await?;
    let (mut validated, mut findings) = validate(&input, &context.defaults);
    // The Secret comes before the children that contain its version: otherwise the first pods would be replaced at
    // once.
    if let Some(wanted) = &validated
        && ensure_broker_secret(&context.client, wanted, input.broker_secret_exists).await?
    {
        input = read().await?;
        (validated, findings) = validate(&input, &context.defaults);
    }
    let result = match validated {
        Some(validated) => Some(reconcile_children(context, &input, validated).await),
        None => None,
    };
    let outcome = match &result {
        Some(Ok(applied)) => Outcome::Applied(applied),
        Some(Err(error)) => Outcome::Failed(error),
        None => Outcome::Nothing,
    };
    let now = status(&input, &findings, &outcome, Timestamp::now());
    announce(&context.events, &input.meshsync, &outcome, &now).await;
    write_status(&context.client, &input, now).await?;
    match result {
        Some(Ok(applied)) => Ok(next(&input, &applied)),
        Some(Err(error)) => Err(error),
        None => Ok(Action::requeue(Class::Invalid.retry_after())),
    }
}

/// Decides when to try again.
#[must_use]
pub fn on_error(meshsync: Arc<MeshSync>, error: &Error, _: Arc<Context>) -> Action {
    let delay = error.class().retry_after();
    let (namespace, name) = (meshsync.namespace().unwrap_or_default(), meshsync.name_any());
    match error.class() {
        Class::Waiting => tracing::debug!(%error, "MeshSync {namespace}/{name}"),
        _ => tracing::warn!(%error, retry_in = ?delay, "MeshSync {namespace}/{name}"),
    }
    Action::requeue(delay)
}

async fn reconcile_children(
    context: &Context,
    input: &Dereferenced,
    mut validated: Validated,
) -> Result<Applied, Error> {
    let settled = is_settled(input, &validated);
    if must_restart(context, input, &validated, settled) {
        let message = format!(
            "the agent has not applied configuration {} within {} s: its pod is replaced",
            validated.config.revision,
            ACKNOWLEDGE_WITHIN.as_secs()
        );
        warn(&context.events, &input.meshsync, "status.agent", "AgentRestarted", message).await;
        validated.restarted_for = Some(validated.config.revision.clone());
    }
    let built = build(&validated, &still_grantable(input), settled)?;
    let applied = apply(&context.client, validated, built).await?;
    context.metrics.wrote(applied.written.len() + applied.removed.len());
    Ok(applied)
}

/// Returns the agent's present rights without those that may no longer be granted, which would fail the whole role.
fn still_grantable(input: &Dereferenced) -> Vec<PolicyRule> {
    let mut rules = input.granted.clone();
    for rule in &mut rules {
        let groups = rule.api_groups.clone().unwrap_or_default();
        let is_grantable = |plural: &String| groups.iter().all(|group| input.cluster_info.is_grantable(group, plural));
        rule.resources.iter_mut().for_each(|resources| resources.retain(is_grantable));
    }
    rules
}

/// Whether the agent has applied the desired configuration.
fn is_settled(input: &Dereferenced, validated: &Validated) -> bool {
    let agent = input.meshsync.status.as_ref().and_then(|status| status.agent.as_ref());
    agent.is_some_and(|agent| agent.applied_revision == validated.config.revision)
}

/// Whether the agent is running but has not applied this configuration for too long.
fn must_restart(context: &Context, input: &Dereferenced, validated: &Validated, settled: bool) -> bool {
    let mut waiting = context.waiting.lock().unwrap_or_else(PoisonError::into_inner);
    let (uid, revision) = (&validated.identity.uid, &validated.config.revision);
    if settled || !input.agent_available {
        waiting.remove(uid);
        return false;
    }
    let (since_revision, since) = waiting.entry(uid.clone()).or_insert_with(|| (revision.clone(), Instant::now()));
    if since_revision != revision {
        *since_revision = revision.clone();
        *since = Instant::now();
    }
    since.elapsed() >= ACKNOWLEDGE_WITHIN && input.restarted_for.as_ref() != Some(revision)
}

/// Returns when to reconcile again. Most changes trigger a reconciliation by themselves; this covers those that do not.
fn next(input: &Dereferenced, applied: &Applied) -> Action {
    if !is_settled(input, &applied.input) {
        return Action::requeue(ACKNOWLEDGE_WITHIN / 4);
    }
    if !input.missing_secrets.is_empty() {
        return Action::requeue(Class::Waiting.retry_after());
    }
    if input.names_secrets {
        return Action::requeue(SECRETS_EVERY);
    }
    // Spread by uid, so that a thousand MeshSyncs are not reconciled at the same moment.
    let spread = applied.input.identity.uid.bytes().fold(0_u64, |sum, byte| sum * 31 % 1800 + u64::from(byte));
    Action::requeue(RELAX + Duration::from_secs(spread % 1800))
}

async fn write_status(client: &Client, input: &Dereferenced, now: MeshSyncStatus) -> Result<(), Error> {
    let before = input.meshsync.status.clone().unwrap_or_default();
    if before == (MeshSyncStatus { agent: before.agent.clone(), ..now.clone() }) {
        return Ok(());
    }
    let (namespace, name) = (input.meshsync.namespace().unwrap_or_default(), input.meshsync.name_any());
    let api: Api<MeshSync> = Api::namespaced(client.clone(), &namespace);
    let patch = serde_json::json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": "MeshSync",
        "metadata": {"name": name, "uid": input.meshsync.uid()},
        "status": now,
    });
    let params = PatchParams::apply(OPERATOR_FIELD_MANAGER).force();
    match api.patch_status(&name, &params, &Patch::Apply(&patch)).await {
        Ok(_) => Ok(()),
        // The MeshSync was deleted meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(Error::api(format!("write the status of MeshSync {namespace}/{name}"))(error)),
    }
}
