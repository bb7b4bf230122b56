//! Step two: what is to be built, or what is wrong. Pure.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use meshsync_crds::agent_config::{AgentConfig, PublishConfig, ReportTarget, SnapshotConfig};
use meshsync_crds::informer_config::{EffectiveInformerConfig, InformerConfig};
use meshsync_crds::names::CEILING_CLUSTER_ROLE;
use meshsync_crds::selection::{Rejection, Selection, select};
use meshsync_crds::{AgentSpec, ConfigurationSource, ExternalBroker, ManagedBroker, RefusedType};

use super::dereference::Dereferenced;
use super::names::Identity;
use crate::cluster_info::default_config;

/// What a MeshSync gets where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// The agent's image.
    pub agent_image: String,
    /// The managed broker's image.
    pub nats_image: String,
    /// User and group of every pod. None: the cluster assigns them, as OpenShift does.
    pub run_as_user: Option<i64>,
}

/// Where the agent publishes.
#[derive(Clone, Debug, PartialEq)]
pub enum Broker {
    /// A NATS that the operator runs.
    Managed(ManagedBroker),
    /// A NATS that somebody else runs.
    External(Box<ExternalBroker>),
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
    /// What is used where it says nothing.
    pub defaults: Defaults,
    /// Identifies the credentials that the pod gets.
    pub credentials_hash: String,
    /// Revision for whose sake the agent was rolled, or is to be.
    pub restarted_for: Option<String>,
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
    /// Whether there is a configuration in force at all.
    pub in_force: bool,
    /// Whether there is an agent, which may go on though nothing is known that could be put in force.
    pub agent_exists: bool,
}

impl Findings {
    /// What goes on while what was asked for cannot be put in force.
    #[must_use]
    pub fn meanwhile(&self) -> &'static str {
        match (self.in_force, self.agent_exists) {
            (true, _) => "the last good configuration stays in force",
            (false, true) => "until then the agent goes on as it is, and nothing of it is mended",
            (false, false) => "until then nothing runs",
        }
    }
}

/// Decides what is to be built. `None`: there is nothing that could be put in force, not even an older configuration.
#[must_use]
pub fn validate(input: &Dereferenced, defaults: &Defaults) -> (Option<Validated>, Findings) {
    let cluster_default = &input.cluster_info.default;
    let own = input.meshsync.spec.informer_config.clone();
    let follows_default = own.as_ref().is_none_or(|own| !says_everything(own));
    let source = match (&own, cluster_default.is_built_in) {
        (Some(_), _) => ConfigurationSource::Spec,
        (None, true) => ConfigurationSource::BuiltIn,
        (None, false) => ConfigurationSource::ClusterDefault,
    };
    let merged = own.unwrap_or_default().or(&cluster_default.config);
    let served = &input.cluster_info.discovered.types;
    let asked = merged.clone().into_effective();
    let asked_selection = select(&asked, served);
    let agent_exists = input.agent_exists;
    let mut findings = Findings { source, informer_config: merged, agent_exists, ..Findings::default() };
    let rejection = asked_selection.rejection();
    let in_force = if rejection.is_none() {
        findings.notes = notes(&asked_selection);
        Some((asked, asked_selection))
    } else {
        findings.rejected = rejection.map(|Rejection { reason, message }| match source {
            // A person who looks at this MeshSync would search for it in vain.
            ConfigurationSource::ClusterDefault => (reason, format!("{}: {message}", default_config::place())),
            ConfigurationSource::Spec | ConfigurationSource::BuiltIn => (reason, message),
        });
        // The last good configuration stays in force, held against what is served now.
        last_good(input).map(|last| {
            findings.informer_config = as_set(&last);
            let selection = select(&last, served);
            (last, selection)
        })
    };
    if let (None, Some(problem)) = (&findings.rejected, &cluster_default.problem)
        && follows_default
    {
        findings.rejected = Some(("InvalidClusterDefault", problem.clone()));
    }
    findings.in_force = in_force.is_some();
    let Some((informer_config, selection)) = in_force else { return (None, findings) };
    let validated = assemble(input, defaults, informer_config, &selection, &mut findings);
    (Some(validated), findings)
}

/// What was in force last: what the agent was given, unless it was edited or deleted; then what the status remembers.
///
/// In this order, because the ConfigMap was read just now, while the status is as old as the cache that it comes from.
fn last_good(input: &Dereferenced) -> Option<EffectiveInformerConfig> {
    let given = input.last_config.as_ref().map(|config| config.informer_config.clone());
    let configuration = input.meshsync.status.as_ref().and_then(|status| status.configuration.as_ref());
    let remembered = configuration.map(|configuration| configuration.informer_config.clone().into_effective());
    if input.config_edited { remembered.or(given) } else { given.or(remembered) }
}

/// Whether nothing is left to the cluster-wide default.
fn says_everything(own: &InformerConfig) -> bool {
    let InformerConfig { blacklist, whitelist, metadata_only, namespaces } = own;
    blacklist.is_some() && whitelist.is_some() && metadata_only.is_some() && namespaces.is_some()
}

fn assemble(
    input: &Dereferenced,
    defaults: &Defaults,
    informer_config: EffectiveInformerConfig,
    selection: &Selection,
    findings: &mut Findings,
) -> Validated {
    let identity = Identity::of(&input.meshsync);
    let spec = &input.meshsync.spec;
    let types = grantable(input, selection, findings);
    let config = agent_config(input, &identity, informer_config, &types);
    let broker = spec.broker.clone().unwrap_or_default();
    Validated {
        crd_uid: input.cluster_info.crd_uid.clone(),
        types,
        broker: match broker.external {
            Some(external) => Broker::External(Box::new(external)),
            None => Broker::Managed(broker.managed.unwrap_or_default()),
        },
        agent: spec.agent.clone().unwrap_or_default(),
        defaults: defaults.clone(),
        credentials_hash: hash(&input.secret_versions),
        restarted_for: input.restarted_for.clone(),
        config,
        identity,
    }
}

/// The selected types that an agent may be granted, by group and plural name. The others are reported as refused.
fn grantable(input: &Dereferenced, selection: &Selection, findings: &mut Findings) -> BTreeSet<(String, String)> {
    let mut types = BTreeSet::new();
    for selected in &selection.types {
        let served = &selected.served;
        let Some(why) = input.cluster_info.ungrantable.get(&served.name()) else {
            types.insert((served.group.clone(), served.plural.clone()));
            continue;
        };
        let name = served.name();
        let message = cut(format!("add list and watch on {name} to the ClusterRole {CEILING_CLUSTER_ROLE}: {why}"));
        findings.refused.push(RefusedType { type_: name, reason: "NotGrantable".to_owned(), message });
    }
    findings.selected = types.len();
    types
}

fn agent_config(
    input: &Dereferenced,
    identity: &Identity,
    informer_config: EffectiveInformerConfig,
    types: &BTreeSet<(String, String)>,
) -> AgentConfig {
    let spec = &input.meshsync.spec;
    let publish = spec.publish.clone().unwrap_or_default();
    let mut config = AgentConfig {
        revision: String::new(),
        cluster_id: Some(publish.cluster_id.clone().unwrap_or_else(|| input.cluster_info.cluster_id.clone())),
        informer_config,
        snapshot: SnapshotConfig { mode: spec.snapshot.clone().unwrap_or_default().mode.unwrap_or_default() },
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
    config.revision = revision(&config, types);
    config
}

/// The API takes 1,024 characters.
fn cut(message: String) -> String {
    message.chars().take(1000).collect()
}

/// Changes with what the agent is to do, and with its rights: a new revision makes it try refused types again.
fn revision(config: &AgentConfig, types: &BTreeSet<(String, String)>) -> String {
    // The document has no map whose order could change; a failure to write it shows up when the ConfigMap is built.
    let text = serde_json::to_string(config).unwrap_or_default();
    hash(&(text, types))
}

/// Stable for one build of the operator; a new build at worst makes every agent confirm its configuration again.
pub(super) fn hash(value: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn notes(selection: &Selection) -> Option<(&'static str, String)> {
    let reason = selection.problems.first()?.reason();
    Some((reason, selection.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))
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

#[cfg(test)]
mod tests {
    use meshsync_crds::{ConfigurationStatus, MeshSyncStatus};
    use serde_json::json;

    use super::super::fixtures::{defaults, dereferenced};
    use super::*;
    use crate::cluster_info::ClusterDefault;

    fn names(validated: &Validated) -> Vec<&str> {
        validated.types.iter().map(|(_, plural)| plural.as_str()).collect()
    }

    #[test]
    fn what_is_selected_and_grantable_is_granted() {
        let input = dereferenced(json!({"informer_config": {"blacklist": ["cm", "configmaps"]}}), &["secrets"]);
        let (validated, findings) = validate(&input, &defaults());
        let validated = validated.unwrap();
        assert_eq!(names(&validated), ["pods", "deployments"]);
        assert_eq!((findings.selected, findings.source), (2, ConfigurationSource::Spec));
        assert_eq!(findings.refused.len(), 1);
        assert_eq!(findings.refused[0].type_, "secrets");
        assert!(findings.refused[0].message.contains("meshsync-agent-ceiling"), "{}", findings.refused[0].message);
        assert_eq!(findings.notes.unwrap().0, "UnknownType", "`cm` is no type here");
    }

    #[test]
    fn a_configuration_that_cannot_be_is_refused_and_the_last_good_one_stays() {
        let mut input = dereferenced(json!({"informer_config": {"blacklist": ["*"]}}), &[]);
        let (nothing, findings) = validate(&input, &defaults());
        assert!(nothing.is_none() && !findings.in_force);
        assert_eq!(findings.rejected.unwrap().0, "NothingSelected");

        let misspelt = dereferenced(json!({"informer_config": {"whitelist": ["podz"]}}), &[]);
        let (_, message) = validate(&misspelt, &defaults()).1.rejected.unwrap();
        assert!(message.contains("did you mean `pods`?"), "{message}");

        let good = EffectiveInformerConfig { whitelist: vec!["pods".into()], ..Default::default() };
        input.last_config = Some(AgentConfig { informer_config: good, ..AgentConfig::default() });
        let (validated, findings) = validate(&input, &defaults());
        assert_eq!(names(&validated.unwrap()), ["pods"]);
        assert!(findings.in_force && findings.rejected.is_some());
    }

    #[test]
    fn an_edited_or_deleted_config_map_does_not_lose_the_last_good_configuration() {
        let only = |plural: &str| EffectiveInformerConfig { whitelist: vec![plural.into()], ..Default::default() };
        let given = |plural: &str| Some(AgentConfig { informer_config: only(plural), ..AgentConfig::default() });
        let configuration = ConfigurationStatus { informer_config: as_set(&only("pods")), ..Default::default() };
        let remembering = MeshSyncStatus { configuration: Some(configuration), ..MeshSyncStatus::default() };
        let mut input = dereferenced(json!({"informer_config": {"blacklist": ["*"]}}), &[]);
        for (last_config, config_edited, status, in_force) in [
            (None, true, Some(&remembering), Some("pods")),
            (None, false, Some(&remembering), Some("pods")),
            (given("secrets"), true, Some(&remembering), Some("pods")),
            (given("secrets"), false, Some(&remembering), Some("secrets")),
            (given("secrets"), true, None, Some("secrets")),
            (None, true, None, None),
        ] {
            let case = format!("{last_config:?}, edited: {config_edited}, {status:?}");
            input = Dereferenced { last_config, config_edited, ..input };
            input.meshsync.status = status.cloned();
            let (validated, findings) = validate(&input, &defaults());
            assert_eq!(validated.as_ref().map(names), in_force.map(|plural| vec![plural]), "{case}");
            assert_eq!(findings.meanwhile() == "until then nothing runs", in_force.is_none(), "{case}");
        }
        input.agent_exists = true;
        let (_, findings) = validate(&input, &defaults());
        assert!(findings.meanwhile().contains("goes on"), "there is an agent, but: {}", findings.meanwhile());
    }

    #[test]
    fn a_wrong_default_is_told_to_those_whom_it_concerns() {
        let broken = ClusterDefault { problem: Some("no good".into()), ..ClusterDefault::default() };
        let whole = json!({"blacklist": [], "whitelist": [], "metadataOnly": [], "namespaces": {}});
        for (spec, concerned) in [
            (json!({}), true),
            (json!({"informer_config": {"blacklist": ["pods"]}}), true),
            (json!({"informer_config": whole}), false),
        ] {
            let mut input = dereferenced(spec, &[]);
            input.cluster_info.default = broken.clone();
            let (validated, findings) = validate(&input, &defaults());
            assert!(validated.is_some());
            assert_eq!(findings.rejected.is_some(), concerned);
        }
        let mut input = dereferenced(json!({}), &[]);
        let config = InformerConfig { blacklist: Some(vec!["*".into()]), ..InformerConfig::default() };
        input.cluster_info.default = ClusterDefault { config, is_built_in: false, problem: None };
        let (_, findings) = validate(&input, &defaults());
        let (reason, message) = findings.rejected.unwrap();
        assert!(reason == "NothingSelected" && message.starts_with("annotation meshery.layer5.io/"), "{message}");
    }

    #[test]
    fn the_revision_changes_with_what_the_agent_is_to_do_and_with_nothing_else() {
        let revision = |input: &Dereferenced| validate(input, &defaults()).0.unwrap().config.revision;
        let input = dereferenced(json!({}), &[]);
        let same = Dereferenced { agent_available: true, secret_versions: Vec::new(), ..input.clone() };
        assert_eq!(revision(&input), revision(&same));
        assert_ne!(revision(&input), revision(&dereferenced(json!({}), &["pods"])));
        assert_ne!(revision(&input), revision(&dereferenced(json!({"publish": {"format": "kubernetes"}}), &[])));
    }
}
