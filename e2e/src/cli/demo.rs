//! `cargo lab demo`: demonstrates the system on a real cluster.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::clusters::start;
use super::output::print;
use crate::assets;
use crate::cluster::{Cluster, Level};
use crate::demo::show;
use crate::lab::Lab;
use crate::packages;
use crate::progress::say;
use crate::provider::{Provider, ProviderName, kind_works};

/// Name of the demonstration's lab.
const NAME: &str = "demo";

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Provider of the cluster [default: kind if it works, else local]
    #[arg(long, value_enum)]
    provider: Option<ProviderName>,
    /// Context of the existing cluster in your kubeconfig
    #[arg(long)]
    context: Option<String>,
    /// Install missing Debian packages (implied by CI=true)
    #[arg(long)]
    yes: bool,
    /// End with one line of JSON: the measured figures
    #[arg(long)]
    json: bool,
    /// Take the cluster down at the end
    #[arg(long)]
    stop: bool,
}

/// Shows the system at work in a cluster of its own, which stays up. An earlier demonstration's is removed first.
pub(super) fn run(args: &DemoArgs) -> Result<ExitCode> {
    let provider = Provider::choose(args.provider, args.context.as_deref(), kind_works, NAME)?;
    if provider == Provider::Local {
        packages::ensure_installed(Level::Node, packages::agreed(args.yes))?;
        assets::ensure_all(Level::Node.tools())?;
    }
    assets::ensure_all(&[assets::Tool::NatsServer])?;
    super::test::build_binaries()?;
    if let Ok(earlier) = Lab::open(NAME) {
        say("removing the cluster of an earlier demonstration");
        earlier.take_down()?;
    }
    let lab = start(NAME, Level::Node, provider)?;
    let figures = lab.enter(async |lab| show(&Cluster::attach(lab)?).await);
    let figures = match figures {
        Ok(figures) => figures,
        Err(error) => {
            say(format!("the cluster stays up for you to look: cargo lab kubectl --name {NAME} get pods -A"));
            return Err(error);
        }
    };
    if args.stop {
        lab.take_down()?;
    } else {
        say("the cluster stays up. Try:");
        say(format!("  cargo lab kubectl --name {NAME} get meshsyncs -A"));
        say(format!("  cargo lab kubectl --name {NAME} describe meshsync -n meshery meshsync"));
        say(format!("  cargo lab kubectl --name {NAME} logs -n meshery deployment/meshsync-agent"));
        say(format!("  cargo lab kubectl --name {NAME} edit meshsync -n meshery meshsync"));
        say(format!("stop it:  cargo lab down --name {NAME}"));
    }
    if args.json {
        print(serde_json::to_string(&figures)?)?;
    }
    Ok(ExitCode::SUCCESS)
}
