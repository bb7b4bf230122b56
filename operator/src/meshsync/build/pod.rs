//! What the pods of agent and broker have in common.

use k8s_openapi::api::core::v1::{Capabilities, PodSecurityContext, SeccompProfile, SecurityContext};

use crate::meshsync::validate::Validated;

/// Annotation of a pod template that restarts the pod when its credentials change.
pub(super) const CREDENTIALS_ANNOTATION: &str = "meshery.layer5.io/credentials-hash";

/// What Pod Security `restricted` asks of a pod. The user is set because the image's own may be a name, which the kubelet
/// cannot tell from root.
pub(super) fn pod_security(input: &Validated) -> PodSecurityContext {
    let user = input.defaults.run_as_user;
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: user,
        run_as_group: user,
        fs_group: user,
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

/// What Pod Security `restricted` asks of a container, and a root file system that nothing can be written to.
pub(super) fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}
