//! The limit of open files and connections.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A lower limit is low for a process that watches a whole cluster: without shared connections, each type needs one.
const ENOUGH: u64 = 4096;

/// Raises the soft limit of open files to the hard limit. Many systems default to 1,024, for the sake of programs that
/// use `select`. At the limit, probes and metrics time out as well.
pub fn raise_limit() {
    match raise(Resource::RLIMIT_NOFILE) {
        Ok(limit) if limit < ENOUGH => {
            tracing::warn!(
                limit,
                "the limit of open files is low: raise the hard limit (ulimit -Hn) for a cluster with many types"
            );
        }
        Ok(limit) => tracing::debug!(limit, "raised the limit of open files"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}

/// Raises the limit and returns it.
fn raise(resource: Resource) -> nix::Result<u64> {
    let (soft, hard) = getrlimit(resource)?;
    if soft < hard {
        setrlimit(resource, hard, hard)?;
    }
    Ok(hard.max(soft))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limit_is_raised_to_the_hard_limit() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(1024), hard).unwrap();
        assert_eq!(raise(Resource::RLIMIT_NOFILE), Ok(hard));
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE), Ok((hard, hard)));
    }
}
