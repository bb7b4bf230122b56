//! Labs with a cluster that several tests of one program use in turn, because starting a cluster takes longer than many
//! tests.
//!
//! Concurrent tests get different labs. The last test removes them; a later test creates new labs.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};

use crate::cluster::{Cluster, Level};
use crate::lab::{Lab, Lifetime, report_failure};

/// Logs that continue from test to test.
const OF_THE_CLUSTER: [&str; 2] = ["etcd.log", "kube-apiserver.log"];

struct Shared {
    lab: Lab,
    cluster: Arc<Cluster>,
}

struct Pool {
    idle: Vec<Shared>,
    users: usize,
    made: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { idle: Vec::new(), users: 0, made: 0 });

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `scenario` in a lab with a cluster of [`Level::Api`] that other tests may have used before: nothing runs in it but
/// the cluster, which holds no custom resources, and namespaces with objects of other tests. When it fails, the ends of all
/// logs are printed, the log files are kept, and the lab is not used again.
///
/// # Errors
/// The error of `scenario`, or when the lab cannot be created or leaves something behind.
///
/// # Panics
/// Resumes the panic of a failed assertion of `scenario`.
pub fn run(name: &str, scenario: impl AsyncFnOnce(&Lab, &Arc<Cluster>) -> Result<()> + Send) -> Result<()> {
    let _user = User::begin();
    let idle = pool().idle.pop();
    let shared = idle.map_or_else(make, Ok)?;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        shared.lab.enter(async |lab| {
            clean(lab, &shared.cluster).await.context("the lab cannot be used again")?;
            scenario(lab, &shared.cluster).await
        })
    }));
    if let Ok(Ok(())) = outcome {
        pool().idle.push(shared);
        return Ok(());
    }
    report_failure(&shared.lab, name);
    take_down(shared)?;
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

/// A test that uses a lab, or waits for one.
struct User;

impl User {
    fn begin() -> Self {
        pool().users += 1;
        Self
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let unused = {
            let mut pool = pool();
            pool.users -= 1;
            if pool.users == 0 { std::mem::take(&mut pool.idle) } else { Vec::new() }
        };
        // What is left behind is removed by the next run.
        unused.into_iter().for_each(|shared| drop(take_down(shared)));
    }
}

fn make() -> Result<Shared> {
    let number = {
        let mut pool = pool();
        pool.made += 1;
        pool.made
    };
    let lab = Lab::create(&format!("shared-{number}-{}", std::process::id()), Lifetime::ThisProcess)?;
    // The plugin demands ServiceAccounts, which only controllers create, and none run here.
    let started = lab.enter(async |lab| {
        lab.cluster(Level::Api).apiserver_arg("--disable-admission-plugins=ServiceAccount").start().await
    });
    match started {
        Ok(cluster) => Ok(Shared { lab, cluster: Arc::new(cluster) }),
        Err(error) => {
            report_failure(&lab, "shared");
            lab.take_down()?;
            Err(error)
        }
    }
}

fn take_down(shared: Shared) -> Result<()> {
    let Shared { lab, cluster } = shared;
    drop(cluster);
    lab.take_down().context("the shared lab left something behind")
}

/// Removes objects of another test that would disturb the next.
async fn clean(lab: &Lab, cluster: &Cluster) -> Result<()> {
    cluster.await_apiserver().await?;
    cluster.kubectl(["delete", "crd", "--all", "--timeout=30s"]).await?;
    for entry in std::fs::read_dir(lab.dir().join("logs"))? {
        let log = entry?;
        if !OF_THE_CLUSTER.iter().any(|name| log.file_name() == *name) {
            std::fs::remove_file(log.path())?;
        }
    }
    for entry in std::fs::read_dir(lab.dir())? {
        let store = entry?;
        if store.file_name().to_string_lossy().ends_with("-store") {
            std::fs::remove_dir_all(store.path())?;
        }
    }
    Ok(())
}
