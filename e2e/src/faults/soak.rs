//! Hours of random faults under churn, during which nothing may be lost and nothing may grow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use serde::Serialize;

use super::frozen::be_frozen;
use super::proxy::{Link, Proxy};
use super::server_link::ServerLink;
use super::trial::Trial;
use crate::bench::process::{descriptors, usage};
use crate::cluster::Level;
use crate::lab::Lab;
use crate::progress::say;

/// How long a fault lasts, in seconds.
const SECONDS: std::ops::Range<u64> = 1..20;
/// Fewest samples that can prove growth.
const ENOUGH: usize = 12;
/// Growth of the resident set from the first to the last third of the time that is allowed, in addition to a tenth of
/// it: an allocator returns pages late.
const SLACK_MIB: f64 = 4.0;
/// Descriptors by which they may differ: connections that are being closed.
const SLACK_DESCRIPTORS: usize = 3;

/// A fault of the broker, of the API server, or of the link to either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    LinkCut,
    LinkHalfOpen,
    LinkSlow,
    BrokerKilled,
    BrokerEmptied,
    StreamDeleted,
    ApiServerKilled,
    ApiLinkCut,
    ApiLinkHalfOpen,
    ApiLinkFrozen,
}

const FAULTS: [Fault; 10] = [
    Fault::LinkCut,
    Fault::LinkHalfOpen,
    Fault::LinkSlow,
    Fault::BrokerKilled,
    Fault::BrokerEmptied,
    Fault::StreamDeleted,
    Fault::ApiServerKilled,
    Fault::ApiLinkCut,
    Fault::ApiLinkHalfOpen,
    Fault::ApiLinkFrozen,
];

/// Duration and faults of a soak.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Minutes of random faults.
    pub duration: Duration,
    /// Minutes of an outage of the broker before the faults.
    pub outage: Option<Duration>,
    /// Minutes after that outage in which open connections to the API server are frozen and new connections work.
    pub frozen: Option<Duration>,
    /// The same seed produces the same faults.
    pub seed: u64,
}

/// What the agent used after a fault.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// Resident set, in MiB.
    pub rss_mib: f64,
    /// Open descriptors.
    pub descriptors: usize,
}

/// Result of a soak: the survived faults, and what the agent used.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// See [`Plan::seed`].
    pub seed: u64,
    /// Faults.
    pub faults: usize,
    /// Largest resident set while the broker was away, in MiB.
    pub outage_rss_mib: f64,
    /// Medians of the first third of the samples.
    pub first: Sample,
    /// Medians of the last third.
    pub last: Sample,
    /// Whether there were enough samples to speak of growth.
    pub judged: bool,
}

/// Runs `plan` in `lab`.
///
/// # Errors
/// A violated invariant, or growth.
pub async fn soak(lab: &Lab, plan: Plan) -> Result<Outcome> {
    let cluster =
        Arc::new(lab.cluster(Level::Api).apiserver_arg("--disable-admission-plugins=ServiceAccount").start().await?);
    let link = ServerLink::start(&cluster, lab.dir()).await?;
    let trial = Trial::begin_at(lab, &cluster, lab.nats().jetstream(), link.kubeconfig(), |agent| agent).await?;
    let mut outcome = Outcome { seed: plan.seed, ..Outcome::default() };
    if let Some(outage) = plan.outage {
        outcome.outage_rss_mib = be_away(&trial, outage).await.context("while the broker is away")?;
    }
    if let Some(frozen) = plan.frozen {
        be_frozen(&trial, &link, frozen).await.context("while connections to the API server are frozen")?;
    }
    let (mut random, began, mut samples) = (Rng::with_seed(plan.seed), Instant::now(), Vec::new());
    while began.elapsed() < plan.duration {
        let fault = random.choice(FAULTS).unwrap_or(Fault::LinkCut);
        let length = Duration::from_secs(random.u64(SECONDS));
        let after = format!("after fault {}, {fault:?} for {length:?}", samples.len() + 1);
        inject(&trial, &link, fault, length).await.with_context(|| after.clone())?;
        trial.live().await.with_context(|| after.clone())?;
        let sample = sample(&trial)?;
        say(format!("{after}: {:.1} MiB, {} descriptors", sample.rss_mib, sample.descriptors));
        samples.push(sample);
    }
    trial.end().await?;
    outcome.faults = samples.len();
    judge(&samples, &mut outcome)?;
    Ok(outcome)
}

/// Stops the broker for this time, and returns the largest resident set.
async fn be_away(trial: &Trial, outage: Duration) -> Result<f64> {
    trial.nats.kill().await?;
    let (began, mut largest) = (Instant::now(), 0.0_f64);
    while began.elapsed() < outage {
        tokio::time::sleep(Duration::from_secs(60).min(outage.saturating_sub(began.elapsed()))).await;
        trial.agent.ensure_running()?;
        let sample = sample(trial)?;
        largest = largest.max(sample.rss_mib);
        say(format!("the broker is away for {} s: {:.1} MiB", began.elapsed().as_secs(), sample.rss_mib));
    }
    trial.behind_since(outage.as_secs_f64() * 0.9).await?;
    trial.nats.start().await?;
    trial.live().await.context("after it came back")?;
    Ok(largest)
}

async fn inject(trial: &Trial, server: &ServerLink, fault: Fault, length: Duration) -> Result<()> {
    let link = async |proxy: &Proxy, link: Link| {
        proxy.set(link);
        tokio::time::sleep(length).await;
        proxy.set(Link::Open);
    };
    match fault {
        Fault::LinkCut => link(&trial.proxy, Link::Cut).await,
        Fault::LinkHalfOpen => link(&trial.proxy, Link::HalfOpen).await,
        Fault::LinkSlow => link(&trial.proxy, Link::Slow(20_000)).await,
        Fault::ApiLinkCut => link(&server.proxy, Link::Cut).await,
        Fault::ApiLinkHalfOpen => link(&server.proxy, Link::HalfOpen).await,
        Fault::ApiLinkFrozen => server.proxy.freeze(),
        Fault::BrokerKilled | Fault::BrokerEmptied => {
            trial.nats.kill().await?;
            if fault == Fault::BrokerEmptied {
                trial.nats.forget_streams()?;
            }
            tokio::time::sleep(length).await;
            trial.nats.start().await?;
        }
        Fault::StreamDeleted => trial.nats.drop_streams().await?,
        Fault::ApiServerKilled => {
            let server = trial.cluster.component("kube-apiserver")?;
            server.kill().await?;
            tokio::time::sleep(length).await;
            server.start()?;
            trial.cluster.await_apiserver().await?;
        }
    }
    Ok(())
}

fn sample(trial: &Trial) -> Result<Sample> {
    let pid = trial.agent.pid().context("the agent ended")?;
    Ok(Sample { rss_mib: usage(pid)?.rss as f64 / 1024.0 / 1024.0, descriptors: descriptors(pid)? })
}

/// Compares the last third with the first.
fn judge(samples: &[Sample], outcome: &mut Outcome) -> Result<()> {
    let third = samples.len() / 3;
    outcome.first = medians(samples.get(..third).unwrap_or_default());
    outcome.last = medians(samples.get(samples.len() - third..).unwrap_or_default());
    outcome.judged = samples.len() >= ENOUGH;
    let Outcome { first, last, judged, .. } = outcome;
    if *judged {
        let (most, now) = (first.rss_mib * 1.1 + SLACK_MIB, last.rss_mib);
        ensure!(now <= most, "memory grew from {:.1} to {now:.1} MiB; at most {most:.1} may be", first.rss_mib);
        let (most, now) = (first.descriptors + SLACK_DESCRIPTORS, last.descriptors);
        ensure!(now <= most, "open descriptors grew from {} to {now}; at most {most} may be", first.descriptors);
    }
    Ok(())
}

fn medians(samples: &[Sample]) -> Sample {
    let mut memory: Vec<f64> = samples.iter().map(|sample| sample.rss_mib).collect();
    let mut open: Vec<usize> = samples.iter().map(|sample| sample.descriptors).collect();
    memory.sort_by(f64::total_cmp);
    open.sort_unstable();
    let middle = samples.len() / 2;
    Sample {
        rss_mib: memory.get(middle).copied().unwrap_or_default(),
        descriptors: open.get(middle).copied().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(samples: impl IntoIterator<Item = (f64, usize)>) -> Result<Outcome> {
        let sample = |(rss_mib, descriptors)| Sample { rss_mib, descriptors };
        let samples: Vec<Sample> = samples.into_iter().map(sample).collect();
        let mut outcome = Outcome::default();
        judge(&samples, &mut outcome).map(|()| outcome)
    }

    #[test]
    fn growth_is_distinguished_from_fluctuation() {
        let even = judged((0..30).map(|number| (60.0 + f64::from(number % 5), 40 + number as usize % 3))).unwrap();
        assert!(even.judged);
        let leak = judged((0..30).map(|number| (60.0 + f64::from(number), 40)));
        assert!(leak.unwrap_err().to_string().contains("memory grew"));
        let open = judged((0..30).map(|number| (60.0, 40 + number)));
        assert!(open.unwrap_err().to_string().contains("descriptors grew"));
    }

    #[test]
    fn few_samples_prove_no_growth() {
        assert!(!judged([(60.0, 40), (90.0, 90)]).unwrap().judged);
        assert!(!judged([]).unwrap().judged);
    }
}
