//! Arguments that select a cluster.

use std::path::PathBuf;

use clap::Args;

/// Selects a cluster.
#[derive(Args, Clone, Debug, Default)]
pub struct ClientArgs {
    /// Path of a kubeconfig file [default: $KUBECONFIG, then ~/.kube/config, then the pod's own account]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig file [default: its current context]
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
}
