//! How many files and connections the process may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Fewer than this are few for a process that speaks to a whole cluster: where nothing shares a connection, each type takes one.
const ENOUGH: u64 = 4096;

/// Raises the soft limit of open files to the hard one. Many systems give 1,024, which is for programs that cannot count
/// further; when it is used up, probes and metrics time out as well.
pub fn raise_limit() {
    match raise(Resource::RLIMIT_NOFILE) {
        Ok(limit) if limit < ENOUGH => {
            tracing::warn!(
                limit,
                "few files may be open at a time: raise the hard limit (ulimit -Hn) on a cluster of many types"
            );
        }
        Ok(limit) => tracing::debug!(limit, "so many files may be open at a time"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}

/// Gives what the limit is then.
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
    fn the_soft_limit_becomes_the_hard_one() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(1024), hard).unwrap();
        assert_eq!(raise(Resource::RLIMIT_NOFILE), Ok(hard));
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE), Ok((hard, hard)));
    }
}
