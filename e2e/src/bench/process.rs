//! What a process used, as the kernel counts it.

use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time and memory of one process, children not included.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User and system time so far.
    pub cpu: Duration,
    /// Resident set size now, in bytes.
    pub rss: u64,
    /// Largest resident set size so far, in bytes.
    pub peak_rss: u64,
}

/// Reads `/proc/PID`; see proc(5).
///
/// # Errors
/// The process is gone, or this is not Linux.
pub fn usage(pid: u32) -> Result<Usage> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}; did the process end?"))
    };
    parse(&read("status")?, &read("stat")?).with_context(|| format!("/proc/{pid} is not as proc(5) describes it"))
}

/// Files, sockets and such that the process has open.
///
/// # Errors
/// The process is gone, or is another user's.
pub fn descriptors(pid: u32) -> Result<usize> {
    let path = format!("/proc/{pid}/fd");
    Ok(std::fs::read_dir(&path).with_context(|| format!("cannot read {path}"))?.count())
}

/// Makes [`Usage::peak_rss`] begin anew from what is resident now; see proc(5).
///
/// # Errors
/// The process is gone, or is another user's.
pub fn forget_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    std::fs::write(&path, "5").with_context(|| format!("cannot write {path}"))
}

/// Ticks a second of the times in `/proc/PID/stat`: `sysconf(_SC_CLK_TCK)`, which is 100 on every Linux of today.
const TICKS: u32 = 100;

fn parse(status: &str, stat: &str) -> Option<Usage> {
    let kib = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().split(' ').next()?.parse().ok()
    };
    // The command name may hold spaces and parentheses: count from the last one. Field 14 is utime, 15 stime.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut times = after_name.split_whitespace().skip(11).map(str::parse::<u32>);
    let ticks = times.next()?.ok()? + times.next()?.ok()?;
    Some(Usage {
        cpu: Duration::from_secs(1) * ticks / TICKS,
        rss: kib("VmRSS")? * 1024,
        peak_rss: kib("VmHWM")? * 1024,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_proc_5() {
        let status = "Name:\ta b\nVmPeak:\t  9 kB\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\n";
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 4 0 1 1 1";
        let expected = Usage { cpu: Duration::from_secs(2), rss: 200 * 1024, peak_rss: 300 * 1024 };
        assert_eq!(parse(status, stat), Some(expected));
    }

    #[test]
    fn this_process_has_used_something() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.rss > 0 && usage.peak_rss >= usage.rss, "{usage:?}");
    }
}
