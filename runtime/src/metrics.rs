//! Metrics of every process: its build, and its resource use according to the kernel.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::build_info::BuildInfo;

/// Ticks per second of the times in `/proc/PID/stat`: `sysconf(_SC_CLK_TCK)`, which is 100 on every current Linux.
const TICKS: f64 = 100.0;

/// Registers `meshsync_build_info` and the `process_*` metrics of the Prometheus client guidelines.
pub fn register(registry: &mut Registry, build: &BuildInfo) {
    let labels = vec![("version", build.version), ("revision", build.revision.unwrap_or("unknown"))];
    registry.register("meshsync_build", "Version and source revision of the running build", Info::new(labels));
    registry.register_collector(Box::new(ProcessCollector));
}

/// Resource use of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessUsage {
    /// User and system CPU time, in seconds.
    pub cpu_seconds: f64,
    /// Resident set size, in bytes.
    pub resident_bytes: i64,
    /// Largest resident set size so far, in bytes.
    pub peak_resident_bytes: i64,
    /// Open file descriptors.
    pub open_fds: i64,
}

impl ProcessUsage {
    /// Reads `/proc/self`; `None` if it does not exist, as on macOS.
    #[must_use]
    pub fn now() -> Option<Self> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let open_fds = std::fs::read_dir("/proc/self/fd").ok()?.count();
        Self::parse(&status, &stat, i64::try_from(open_fds).ok()?)
    }

    fn parse(status: &str, stat: &str, open_fds: i64) -> Option<Self> {
        let kib = |name: &str| -> Option<i64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        // The command name may contain spaces and parentheses, so fields are counted from the last parenthesis. Field
        // 14 is utime, 15 stime.
        let (_, after_name) = stat.rsplit_once(')')?;
        let mut times = after_name.split_whitespace().skip(11).map(str::parse::<f64>);
        let ticks = times.next()?.ok()? + times.next()?.ok()?;
        Some(Self {
            cpu_seconds: ticks / TICKS,
            resident_bytes: kib("VmRSS:")? * 1024,
            peak_resident_bytes: kib("VmHWM:")? * 1024,
            open_fds,
        })
    }
}

#[derive(Debug)]
struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(usage) = ProcessUsage::now() else { return Ok(()) };
        let mut gauge = |name: &str, help: &str, value: i64| {
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        gauge("process_resident_memory_bytes", "Resident set size", usage.resident_bytes)?;
        gauge("process_resident_memory_peak_bytes", "Largest resident set size so far", usage.peak_resident_bytes)?;
        gauge("process_open_fds", "Open file descriptors", usage.open_fds)?;
        let cpu = ConstCounter::new(usage.cpu_seconds);
        let help = "User and system CPU time, in seconds";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_proc_5() {
        let status = "Name:\ta b\nVmPeak:\t  9 kB\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\n";
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 4 0 1 1 1";
        let expected =
            ProcessUsage { cpu_seconds: 2.0, resident_bytes: 200 * 1024, peak_resident_bytes: 300 * 1024, open_fds: 5 };
        assert_eq!(ProcessUsage::parse(status, stat, 5), Some(expected));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn metrics_text_has_the_version_and_the_process_metrics() {
        let mut registry = Registry::default();
        register(&mut registry, &BuildInfo { name: "x", version: "1.2.3", revision: None });
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("meshsync_build_info{version=\"1.2.3\",revision=\"unknown\"} 1"), "{text}");
        let rss = text.lines().find_map(|l| l.strip_prefix("process_resident_memory_bytes ")).unwrap();
        assert!(rss.parse::<i64>().unwrap() > 0);
        assert!(text.contains("process_cpu_seconds_total "), "{text}");
    }
}
