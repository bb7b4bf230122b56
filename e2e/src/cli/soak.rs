//! `cargo lab soak`: random faults under churn, for any time.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::Args;

use super::output::print;
use crate::assets;
use crate::cluster::Level;
use crate::faults::soak::{Outcome, Plan, soak};
use crate::lab;
use crate::progress::say;

const EXAMPLES: &str = "Examples:
  cargo lab soak                                   an hour of random faults
  cargo lab soak --minutes 480                     a night of them
  cargo lab soak --minutes 0 --outage-minutes 30   the broker is away for half an hour, and nothing else
  cargo lab soak --minutes 0 --frozen-minutes 10   connections to the API server die in silence, and nothing else
  cargo lab soak --seed 7                          the faults of an earlier run that said `seed 7`";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SoakArgs {
    /// Minutes of random faults
    #[arg(long, default_value_t = 60, value_name = "NUMBER")]
    minutes: u64,
    /// Minutes of an outage of the broker before the faults
    #[arg(long, value_name = "NUMBER")]
    outage_minutes: Option<u64>,
    /// Minutes after that outage in which open connections to the API server are frozen and new connections work
    #[arg(long, value_name = "NUMBER")]
    frozen_minutes: Option<u64>,
    /// Seed of an earlier run whose faults to repeat
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

/// Injects faults until the time is over, and prints what the agent used.
pub(super) fn run(args: &SoakArgs) -> Result<ExitCode> {
    assets::ensure_all(Level::Api.tools())?;
    assets::ensure_all(&[assets::Tool::NatsServer])?;
    super::test::build_binaries()?;
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let plan = Plan {
        duration: minutes(args.minutes),
        outage: args.outage_minutes.map(minutes),
        frozen: args.frozen_minutes.map(minutes),
        seed: args.seed.map_or_else(some_seed, Ok)?,
    };
    say(format!("seed {}", plan.seed));
    let mut outcome = Outcome::default();
    lab::run("soak", async |lab| {
        outcome = soak(lab, plan).await.with_context(|| format!("with seed {}", plan.seed))?;
        Ok(())
    })?;
    print(summary(&outcome))?;
    if args.json {
        print(serde_json::to_string(&outcome)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn some_seed() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs())
}

fn summary(outcome: &Outcome) -> String {
    let Outcome { faults, outage_rss_mib, first, last, judged, seed } = outcome;
    let mut lines = vec![format!("{faults} faults with seed {seed}; every invariant held")];
    if *outage_rss_mib > 0.0 {
        lines.push(format!("while the broker was away: at most {outage_rss_mib:.1} MiB"));
    }
    if *judged {
        let (was, is) = (first.rss_mib, last.rss_mib);
        lines.push(format!("first third and last third: {was:.1} and {is:.1} MiB"));
        lines.push(format!("open descriptors: {} and {}", first.descriptors, last.descriptors));
    } else {
        lines.push("too few faults to say whether anything grows".to_owned());
    }
    lines.join("\n")
}
