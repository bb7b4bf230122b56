//! The scenario `large`: memory with few objects that are large, custom resources beside as many ConfigMaps.
//!
//! An API server writes the two kinds of list differently: that of a built-in type begins with its kind, that of custom
//! resources has it behind the objects. Reports of scanners are such: large, many, and custom resources.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use kube::Client;
use serde::Serialize;
use serde_json::{Value, json};

use super::contender::{Contender, DEADLINE, Run, median};
use super::load::create;
use super::snapshot::Ground;
use crate::await_condition;
use crate::cluster::{Cluster, Level};
use crate::custom_type::custom_type;
use crate::everything::{NOT_WATCHED, fingerprints};
use crate::lab::Lab;
use crate::progress::say;

/// What an object may have at most, in bytes: an API server takes a little more.
pub const LARGEST: u32 = 1_000_000;
/// Objects that are created at the same time.
const WRITERS: usize = 8;
/// How long after the last object the memory is read again: what was freed is given back within a second.
const SETTLE: Duration = Duration::from_secs(2);

/// How much there is of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Objects.
    pub objects: usize,
    /// Bytes of each, about.
    pub bytes: usize,
}

/// What both kinds took one contender, medians of its runs.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Compared {
    /// Name of the contender.
    pub name: &'static str,
    /// With ConfigMaps.
    pub config_maps: Run,
    /// With custom resources.
    pub custom_resources: Run,
    /// Peak of memory with custom resources, in that with ConfigMaps.
    pub ratio: f64,
}

/// What the scenario found.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Objects of each kind.
    pub objects: usize,
    /// Bytes of each, about.
    pub object_bytes: usize,
    /// Runs of each contender with each kind.
    pub runs: usize,
    /// Each contender.
    pub contenders: Vec<Compared>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    ConfigMap,
    Report,
}

impl Kind {
    fn plural(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::Report => "reports.bench.example.com",
        }
    }

    fn collection(self) -> &'static str {
        match self {
            Self::ConfigMap => "/api/v1/namespaces/default/configmaps",
            Self::Report => "/apis/bench.example.com/v1/namespaces/default/reports",
        }
    }

    /// An object of about `bytes` bytes. The two kinds tell the same findings, each in its way.
    fn object(self, number: usize, bytes: usize) -> Value {
        let metadata = json!({"name": format!("report-{number:04}"), "namespace": "default"});
        let findings = (0..).map(|index| finding(number, index));
        match self {
            Self::ConfigMap => {
                let lines = findings.map(|finding| json!({"finding": finding}).to_string().replace('"', "'") + "\n");
                let text: String = up_to(bytes, lines, String::len).concat();
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"report.yaml": text}})
            }
            Self::Report => {
                let findings = up_to(bytes, findings, |finding| finding.to_string().len());
                let spec = json!({"findings": findings});
                json!({"apiVersion": "bench.example.com/v1", "kind": "Report", "metadata": metadata, "spec": spec})
            }
        }
    }
}

/// As many of `parts` as have `bytes` bytes together.
fn up_to<T>(bytes: usize, parts: impl Iterator<Item = T>, length: impl Fn(&T) -> usize) -> Vec<T> {
    let mut left = bytes;
    let fits = |part: &T| {
        let rest = left.checked_sub(length(part));
        left = rest.unwrap_or_default();
        rest.is_some()
    };
    parts.take_while(fits).collect()
}

/// One line of a scanner's report; different in every object.
fn finding(number: usize, index: u64) -> Value {
    let hash = (number as u64 * 1_000_003 + index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    json!({
        "vulnerabilityID": format!("CVE-{}-{:05}", 2015 + hash % 12, hash % 99_991),
        "severity": if hash.is_multiple_of(3) { "HIGH" } else { "MEDIUM" },
        "resource": format!("lib-{}", hash % 31),
        "installedVersion": format!("{}.{}.{}", hash % 7, hash % 23, hash % 101),
        "primaryLink": format!("https://vulnerabilities.example.com/{hash:016x}"),
        "title": "a bound is not checked, which lets whoever sends a long header read memory of others",
    })
}

/// Makes a cluster in `lab` and lets everybody run `runs` times, with ConfigMaps first and with custom resources in their
/// place then.
///
/// # Errors
/// The first step that fails, or a snapshot that is not the cluster's.
pub async fn run(lab: &Lab, contenders: &[Contender], size: Size, runs: usize) -> Result<Report> {
    ensure!(size.objects > 0 && runs > 0, "there is nothing to measure");
    // Without controllers nobody makes the ServiceAccounts that the plugin asks for.
    let cluster = lab.cluster(Level::Api).apiserver_arg("--disable-admission-plugins=ServiceAccount").start().await?;
    let config_maps = runs_with(lab, &cluster, Kind::ConfigMap, contenders, size, runs).await?;
    cluster.apply(custom_type("bench.example.com", "Report")).await?;
    let custom_resources = runs_with(lab, &cluster, Kind::Report, contenders, size, runs).await?;
    let compared = contenders.iter().zip(config_maps.iter().zip(&custom_resources));
    let compared = compared.map(|(contender, (config_maps, custom_resources))| {
        let (config_maps, custom_resources) = median(config_maps).zip(median(custom_resources)).context("no run")?;
        let ratio = custom_resources.peak_mib / config_maps.peak_mib;
        Ok(Compared { name: contender.name, config_maps, custom_resources, ratio })
    });
    let contenders = compared.collect::<Result<_>>()?;
    Ok(Report { objects: size.objects, object_bytes: size.bytes, runs, contenders })
}

/// The runs of each contender with objects of one kind, which are removed afterwards.
async fn runs_with(
    lab: &Lab,
    cluster: &Cluster,
    kind: Kind,
    contenders: &[Contender],
    size: Size,
    runs: usize,
) -> Result<Vec<Vec<Run>>> {
    fill(&cluster.client().await?, kind, size).await?;
    let nats = lab.nats().jetstream().max_payload(8 * 1024 * 1024).start().await?;
    let expected = fingerprints(cluster, &NOT_WATCHED).await?;
    let ground = Ground { lab, cluster, nats: &nats, expected, count: size.objects, settle: SETTLE };
    let mut measured = vec![Vec::new(); contenders.len()];
    for number in 1..=runs {
        say(format!("{}: run {number} of {runs}", kind.plural()));
        for (contender, measured) in contenders.iter().zip(&mut measured) {
            measured.push(ground.run(contender).await.with_context(|| format!("run of {}", contender.name))?);
        }
    }
    cluster.kubectl(["delete", kind.plural(), "--all", "--namespace=default"]).await?;
    Ok(measured)
}

async fn fill(client: &Client, kind: Kind, Size { objects, bytes }: Size) -> Result<()> {
    say(format!("creating {objects} {} of {bytes} bytes", kind.plural()));
    await_condition("the type is served", DEADLINE, async || {
        let list = http::Request::get(format!("{}?limit=1", kind.collection())).body(Vec::new())?;
        Ok(client.request_text(list).await.ok())
    })
    .await?;
    stream::iter(0..objects)
        .map(async |number| create(client, kind.collection(), &kind.object(number, bytes)).await)
        .buffer_unordered(WRITERS)
        .try_collect()
        .await
}

impl Report {
    /// One table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut lines = vec![
            format!(
                "{} objects of {} KB, as ConfigMaps and as custom resources; medians of {}; peak MiB",
                self.objects,
                self.object_bytes / 1_000,
                self.runs
            ),
            format!(
                "{:<12} {:>10} {:>16} {:>6}  {:>20} {:>16}",
                "", "ConfigMaps", "custom resources", "ratio", "restarted ConfigMaps", "custom resources"
            ),
        ];
        lines.extend(self.contenders.iter().map(|one| {
            format!(
                "{:<12} {:>10.1} {:>16.1} {:>6.2}  {:>20.1} {:>16.1}",
                one.name,
                one.config_maps.peak_mib,
                one.custom_resources.peak_mib,
                one.ratio,
                one.config_maps.restart_peak_mib,
                one.custom_resources.restart_peak_mib
            )
        }));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_the_size_that_was_asked_for_and_differ() {
        for kind in [Kind::ConfigMap, Kind::Report] {
            let text = |number| kind.object(number, 900_000).to_string();
            assert!((895_000..=LARGEST as usize).contains(&text(1).len()), "{kind:?}: {}", text(1).len());
            assert_ne!(text(1), text(2).replace("report-0002", "report-0001"));
        }
    }

    #[test]
    fn the_table_shows_peaks_and_their_ratio() {
        let run = |peak_mib| Run { peak_mib, restart_peak_mib: 30.0, ..Run::default() };
        let compared =
            Compared { name: "agent", config_maps: run(50.0), custom_resources: run(60.0), ratio: 60.0 / 50.0 };
        let report = Report { objects: 300, object_bytes: 900_000, runs: 3, contenders: vec![compared] };
        let table = report.table();
        assert!(table.starts_with("300 objects of 900 KB"), "{table}");
        assert!(table.contains("agent              50.0             60.0   1.20"), "{table}");
    }
}
