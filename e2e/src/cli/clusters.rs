//! `cargo lab up|down|status|kubectl`: clusters that stay up between commands.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::json;

use super::output::print;
use crate::assets;
use crate::bench::snapshot;
use crate::cluster::{Cluster, Level};
use crate::lab::{Lab, Lifetime};
use crate::packages;
use crate::progress::say;
use crate::provider::{Provider, ProviderName, kind_works};

#[derive(Debug, Args)]
pub(super) struct UpArgs {
    /// How much of Kubernetes a local cluster runs
    #[arg(long, value_enum, default_value = "node")]
    level: Level,
    /// Provider of the cluster [default: kind if it works, else local]
    #[arg(long, value_enum)]
    provider: Option<ProviderName>,
    /// Context of the existing cluster in your kubeconfig
    #[arg(long)]
    context: Option<String>,
    /// Objects of the benchmarks' data set to create in a cluster of level `api`
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    objects: usize,
    #[command(flatten)]
    which: Which,
    /// Install missing Debian packages (implied by CI=true)
    #[arg(long)]
    yes: bool,
    /// Print one JSON document at the end
    #[arg(long)]
    json: bool,
}

/// Selects a lab that stays up.
#[derive(Debug, Args)]
struct Which {
    /// Name of the lab
    #[arg(long, default_value = "default")]
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct DownArgs {
    #[command(flatten)]
    which: Which,
    /// Remove every lab, including those of running tests
    #[arg(long, conflicts_with = "name")]
    all: bool,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct KubectlArgs {
    #[command(flatten)]
    which: Which,
    /// Arguments of kubectl
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Starts a cluster that stays up. A second call with the same name reports the cluster that is there.
pub(super) fn up(args: &UpArgs) -> Result<ExitCode> {
    let name = &args.which.name;
    let provider = Provider::choose(args.provider, args.context.as_deref(), kind_works, name)?;
    if provider == Provider::Local {
        packages::ensure_installed(args.level, packages::agreed(args.yes))?;
        assets::ensure_all(args.level.tools())?;
    }
    let started = Instant::now();
    let lab = match Lab::open(name) {
        Ok(lab) => answering(lab)?,
        Err(_) if args.objects == 0 => start(name, args.level, provider)?,
        Err(_) => start_with_objects(name, args, provider)?,
    };
    let level = Cluster::level_in(&lab)?;
    say(format!("`{}` is up at level {level}, {:.1} s", lab.name(), started.elapsed().as_secs_f64()));
    if args.json {
        print(describe(&lab)?.to_string())?;
    } else {
        let name = if lab.name() == "default" { String::new() } else { format!(" --name {}", lab.name()) };
        print(format!("look inside:   cargo lab kubectl{name} get namespaces"))?;
        let (namespace, kubeconfig) = (lab.namespace(), lab.dir().join("kubeconfig"));
        let enter = if *lab.provider() == Provider::Local {
            format!(" nsenter --net=/run/netns/{namespace}")
        } else {
            String::new()
        };
        print(format!("other clients: KUBECONFIG={}{enter} COMMAND", kubeconfig.display()))?;
        print(format!("stop:          cargo lab down{name}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The lab, if the cluster in it still answers.
fn answering(lab: Lab) -> Result<Lab> {
    let remedy = format!("`{}` was started but does not answer: `cargo lab down --name {}`", lab.name(), lab.name());
    lab.enter(async |lab| Cluster::attach(lab)?.await_apiserver().await).context(remedy)?;
    Ok(lab)
}

/// Starts a cluster and fills it with the data of a benchmark.
fn start_with_objects(name: &str, args: &UpArgs, provider: Provider) -> Result<Lab> {
    ensure!(
        args.level == Level::Api && provider == Provider::Local,
        "--objects: pods of the data set would be run and collected elsewhere; add --level api --provider local"
    );
    let lab = Lab::create_with(name, Lifetime::UntilTakenDown, provider)?;
    let started = lab.enter(async |lab| {
        let cluster = snapshot::data_cluster(lab, args.objects).await?;
        cluster.leave_running();
        Ok(())
    });
    keep_or_take_down(lab, started)
}

pub(super) fn start(name: &str, level: Level, provider: Provider) -> Result<Lab> {
    let lab = Lab::create_with(name, Lifetime::UntilTakenDown, provider)?;
    let started = lab.enter(async |lab| {
        lab.cluster(level).start().await?.leave_running();
        Ok(())
    });
    keep_or_take_down(lab, started)
}

fn keep_or_take_down(lab: Lab, started: Result<()>) -> Result<Lab> {
    match started {
        Ok(()) => Ok(lab),
        Err(error) => {
            let tails = lab.log_tails(15);
            lab.take_down()?;
            Err(if tails.is_empty() { error } else { error.context(tails) })
        }
    }
}

/// Removes one lab, or all of them.
pub(super) fn down(args: &DownArgs) -> Result<ExitCode> {
    let labs = if args.all { Lab::list()? } else { vec![Lab::open(&args.which.name)?] };
    for lab in labs {
        let name = lab.name().to_owned();
        lab.take_down()?;
        say(format!("`{name}` is gone"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists the labs that run.
pub(super) fn status(args: &StatusArgs) -> Result<ExitCode> {
    let labs = Lab::list()?;
    if args.json {
        let all = labs.iter().map(describe).collect::<Result<Vec<_>>>()?;
        print(serde_json::to_string(&all)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if labs.is_empty() {
        print("no lab runs; start one with `cargo lab up`")?;
    }
    for lab in &labs {
        let level = Cluster::level_in(lab).map_or_else(|_| "no cluster".to_owned(), |level| level.to_string());
        print(format!("{:<32} {level:<14} {} processes  {}", lab.name(), lab.pids()?.len(), lab.dir().display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes kubectl inside the lab.
pub(super) fn kubectl(args: &KubectlArgs) -> Result<ExitCode> {
    let lab = Lab::open(&args.which.name)?;
    let mut command = Cluster::kubectl_command(&lab)?;
    command.args(&args.arguments);
    Err(lab.become_process(command)).context("cannot run kubectl")
}

fn describe(lab: &Lab) -> Result<serde_json::Value> {
    Ok(json!({
        "name": lab.name(),
        "provider": lab.provider().record(),
        "level": Cluster::level_in(lab).ok().map(|level| level.to_string()),
        "kubeconfig": lab.dir().join("kubeconfig"),
        "namespace": lab.namespace(),
        "dir": lab.dir(),
        "processes": lab.pids()?,
    }))
}
