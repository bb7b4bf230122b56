//! Step two: what is to be built, or what is wrong. Pure.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use meshsync_crds::agent_config::{AgentConfig, PublishConfig, ReportTarget};
use meshsync_crds::informer_config::{EffectiveInformerConfig, InformerConfig};
use meshsync_crds::selection::{Selection, select};
use meshsync_crds::{AgentSpec, ConfigurationSource, ExternalBroker, ManagedBroker, RefusedType};

use super::dereference::Dereferenced;
use super::names::Identity;

/// Images that a MeshSync gets when it names none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefaultImages {
    /// The agent's.
    pub agent: String,
    /// The managed broker's.
    pub nats: String,
}

/// Where the agent publishes.
#[derive(Clone, Debug, PartialEq)]
pub enum Broker {
    /// A NATS that the operator runs.
    Managed(ManagedBroker),
    /// A NATS that somebody else runs.
    External(ExternalBroker),
}

/// The only input of the builders: nothing in it is left open or in doubt.
#[derive(Clone, Debug, PartialEq)]
pub struct Validated {
    /// Who the MeshSync is.
    pub identity: Identity,
    /// UID of the CustomResourceDefinition.
    pub crd_uid: String,
    /// What the agent is to do.
    pub config: AgentConfig,
    /// Group and plural of every type that the agent is to read.
    pub types: BTreeSet<(String, String)>,
    /// Where it publishes.
    pub broker: Broker,
    /// Settings of the agent's pod.
    pub agent: AgentSpec,
    /// Images that are used where none is named.
    pub images: DefaultImages,
    /// Identifies the credentials that the pod gets.
    pub credentials_hash: String,
    /// Revision for whose sake the agent was rolled, or is to be.
    pub rolled_for: Option<String>,
}

/// What was found out about the configuration, for status and events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// Where the configuration in force comes from.
    pub source: ConfigurationSource,
    /// What is in force.
    pub informer_config: InformerConfig,
    /// Fatal problems of the configuration that was asked for: reason and message. It is not in force.
    pub rejected: Option<(&'static str, String)>,
    /// Noteworthy but in force: reason and message.
    pub notes: Option<(&'static str, String)>,
    /// Types that were asked for and cannot be granted.
    pub refused: Vec<RefusedType>,
    /// Types that are watched.
    pub selected: usize,
}

/// Decides what is to be built. `None`: there is nothing that could be put in force, not even an older configuration.
#[must_use]
pub fn validate(input: &Dereferenced, images: &DefaultImages) -> (Option<Validated>, Findings) {
    let default = &input.surroundings.default;
    let own = input.meshsync.spec.informer_config.clone();
    let source = match (&own, default.is_built_in) {
        (Some(_), _) => ConfigurationSource::Spec,
        (None, true) => ConfigurationSource::BuiltIn,
        (None, false) => ConfigurationSource::ClusterDefault,
    };
    let merged = own.unwrap_or_default().or(&default.config);
    let served = &input.surroundings.discovered.types;
    let asked = merged.clone().into_effective();
    let asked_selection = select(&asked, served);
    let mut findings = Findings { source, informer_config: merged, ..Findings::default() };
    let in_force = if asked_selection.is_valid() {
        findings.notes = summary(&asked_selection, false);
        Some((asked, asked_selection))
    } else {
        findings.rejected = summary(&asked_selection, true);
        // The last good configuration stays in force, held against what is served now.
        input.last_config.clone().map(|last| {
            findings.informer_config = as_set(&last.informer_config);
            let selection = select(&last.informer_config, served);
            (last.informer_config, selection)
        })
    };
    if let (None, Some(problem)) = (&findings.rejected, &default.problem)
        && source != ConfigurationSource::Spec
    {
        findings.rejected = Some(("InvalidClusterDefault", problem.clone()));
    }
    let Some((informer_config, selection)) = in_force else { return (None, findings) };
    let validated = assemble(input, images, informer_config, &selection, &mut findings);
    (Some(validated), findings)
}

fn assemble(
    input: &Dereferenced,
    images: &DefaultImages,
    informer_config: EffectiveInformerConfig,
    selection: &Selection,
    findings: &mut Findings,
) -> Validated {
    let identity = Identity::of(&input.meshsync);
    let spec = &input.meshsync.spec;
    let mut types = BTreeSet::new();
    for selected in &selection.types {
        let served = &selected.served;
        match input.surroundings.ungrantable.get(&served.name()) {
            None => {
                types.insert((served.group.clone(), served.plural.clone()));
            }
            Some(why) => findings.refused.push(RefusedType {
                type_: served.name(),
                reason: "NotGrantable".to_owned(),
                message: format!(
                    "the operator may not pass on this right ({why}); add list and watch on {} to the ClusterRole {}",
                    served.name(),
                    meshsync_crds::names::CEILING_CLUSTER_ROLE
                ),
            }),
        }
    }
    findings.selected = types.len();
    let publish = spec.publish.clone().unwrap_or_default();
    let mut config = AgentConfig {
        revision: String::new(),
        cluster_id: Some(input.surroundings.cluster_id.clone()),
        informer_config,
        publish: PublishConfig {
            format: publish.format.unwrap_or_default(),
            secrets: publish.secrets.unwrap_or_default(),
        },
        report_to: Some(ReportTarget {
            namespace: identity.namespace.clone(),
            name: identity.name.clone(),
            uid: identity.uid.clone(),
        }),
    };
    config.revision = revision(&config, &types);
    let broker = spec.broker.clone().unwrap_or_default();
    Validated {
        crd_uid: input.surroundings.crd_uid.clone(),
        types,
        broker: match broker.external {
            Some(external) => Broker::External(external),
            None => Broker::Managed(broker.managed.unwrap_or_default()),
        },
        agent: spec.agent.clone().unwrap_or_default(),
        images: images.clone(),
        credentials_hash: hash(&input.secret_versions),
        rolled_for: input.rolled_for.clone(),
        config,
        identity,
    }
}

/// Changes with what the agent is to do, and with its rights: a new revision makes it try refused types again.
fn revision(config: &AgentConfig, types: &BTreeSet<(String, String)>) -> String {
    // The document has no map whose order could change; a failure to write it shows up when the ConfigMap is built.
    let text = serde_json::to_string(config).unwrap_or_default();
    hash(&(text, types))
}

/// Stable for one build of the operator; a new build at worst makes every agent confirm its configuration again.
fn hash(value: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn summary(selection: &Selection, fatal: bool) -> Option<(&'static str, String)> {
    let problems: Vec<_> = selection.problems.iter().filter(|problem| problem.is_fatal() == fatal).collect();
    let reason = problems.first()?.reason();
    Some((reason, problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))
}

fn as_set(config: &EffectiveInformerConfig) -> InformerConfig {
    let EffectiveInformerConfig { blacklist, whitelist, metadata_only, namespaces } = config.clone();
    InformerConfig {
        blacklist: Some(blacklist),
        whitelist: Some(whitelist),
        metadata_only: Some(metadata_only),
        namespaces: Some(namespaces),
    }
}
