//! The lab at its cheapest level: an API server, two concurrent clusters, faults, and a teardown without a trace.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use meshsync_e2e::await_condition;
use meshsync_e2e::cluster::Level;
use meshsync_e2e::lab::{self, Lab, Lifetime};

#[test]
fn api_server_answers_kubectl_and_clients() -> Result<()> {
    lab::run("api-answers", async |lab| {
        let cluster = lab.cluster(Level::Api).start().await?;
        let version = cluster.client().await?.apiserver_version().await?;
        assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "37"), "{version:?}");

        cluster.apply(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"v"}}"#).await?;
        let value = cluster.kubectl(["get", "configmap", "a", "-o", "jsonpath={.data.k}"]).await?;
        assert_eq!(value, "v");
        let error = cluster.kubectl(["get", "configmap", "b"]).await.unwrap_err().to_string();
        assert!(error.contains("NotFound"), "{error}");
        Ok(())
    })
}

#[test]
fn concurrent_clusters_are_isolated() -> Result<()> {
    let names = |mine: &'static str, other: &'static str| {
        move || {
            lab::run(mine, async |lab| {
                let cluster = lab.cluster(Level::Api).start().await?;
                cluster.kubectl(["create", "namespace", mine]).await?;
                let all = cluster.kubectl(["get", "namespaces", "-o", "name"]).await?;
                assert!(all.contains(mine) && !all.contains(other), "{all}");
                Ok(())
            })
        }
    };
    let (first, second) = (names("side-one", "side-two"), names("side-two", "side-one"));
    let first = std::thread::spawn(first);
    second()?;
    first.join().unwrap()
}

#[test]
fn no_route_leads_out_of_a_lab() -> Result<()> {
    lab::run("no-route", async |_lab| {
        // An address reserved for documentation: any answer would come from outside.
        let dial = tokio::net::TcpStream::connect("192.0.2.1:80");
        let outcome = tokio::time::timeout(Duration::from_millis(200), dial).await;
        assert!(!matches!(outcome, Ok(Ok(_))), "{outcome:?}");
        Ok(())
    })
}

#[test]
fn killed_api_server_restarts_with_its_objects() -> Result<()> {
    lab::run("api-restart", async |lab| {
        let cluster = lab.cluster(Level::Api).start().await?;
        cluster.kubectl(["create", "namespace", "kept"]).await?;
        cluster.component("kube-apiserver")?.kill().await?;
        assert!(cluster.kubectl(["get", "namespaces"]).await.is_err());
        cluster.component("kube-apiserver")?.start()?;
        cluster.await_apiserver().await?;
        cluster.kubectl(["get", "namespace", "kept"]).await?;
        cluster.restart("etcd").await?;
        cluster.kubectl(["get", "namespace", "kept"]).await?;
        Ok(())
    })
}

#[test]
fn audit_log_records_user_and_object_of_a_write() -> Result<()> {
    let policy =
        r#"{"apiVersion":"audit.k8s.io/v1","kind":"Policy","rules":[{"level":"Metadata","verbs":["create"]}]}"#;
    lab::run("api-audit", async |lab| {
        let cluster = lab.cluster(Level::Api).audit(policy).start().await?;
        cluster.kubectl(["create", "namespace", "audited"]).await?;
        let written = await_condition("the write is in the audit log", Duration::from_secs(5), async || {
            let events = cluster.audit_events()?;
            Ok(events.into_iter().find(|event| event["objectRef"]["name"] == "audited"))
        });
        assert_eq!(written.await?["user"]["username"], "admin");
        Ok(())
    })
}

#[test]
fn controllers_collect_objects_without_owner() -> Result<()> {
    lab::run("control-plane", async |lab| {
        let cluster = lab.cluster(Level::ControlPlane).start().await?;
        cluster.kubectl(["create", "configmap", "owner"]).await?;
        let uid = cluster.kubectl(["get", "configmap", "owner", "-o", "jsonpath={.metadata.uid}"]).await?;
        let owner = serde_json::json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}]);
        let child = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "child", "ownerReferences": owner}});
        cluster.apply(child.to_string()).await?;
        cluster.kubectl(["delete", "configmap", "owner"]).await?;
        await_condition("the child is collected", Duration::from_secs(30), async || {
            let left = cluster.kubectl(["get", "configmaps", "-o", "name"]).await?;
            Ok((!left.contains("child")).then_some(()))
        })
        .await
    })
}

#[test]
fn teardown_leaves_no_process_namespace_or_file() -> Result<()> {
    let lab = Lab::create(&format!("teardown-{}", std::process::id()), Lifetime::ThisProcess)?;
    let (namespace, dir) = (lab.namespace(), lab.dir().to_owned());
    // As after a crash, only the teardown stops the components.
    lab.enter(async |lab| {
        lab.cluster(Level::Api).start().await?.leave_running();
        Ok(())
    })?;
    assert!(lab.pids()?.len() >= 2, "etcd and kube-apiserver still run");
    assert!(namespaces()?.contains(&namespace));
    lab.take_down()?;
    assert!(!namespaces()?.contains(&namespace));
    assert!(!dir.exists());
    let left: Vec<_> = command_lines()?.into_iter().filter(|line| line.contains(&*dir.to_string_lossy())).collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn next_run_removes_what_a_killed_run_left() -> Result<()> {
    let lab = Lab::create(&format!("remnant-{}", std::process::id()), Lifetime::ThisProcess)?;
    lab.enter(async |lab| {
        lab.cluster(Level::Api).start().await?.leave_running();
        Ok(())
    })?;
    Lab::sweep()?;
    assert!(lab.pids()?.len() >= 2, "a lab whose owner lives is left alone");

    // From here on the lab belongs to a process that has ended: same id, other start time.
    let owner = lab.dir().join("owner.json");
    let mut recorded: serde_json::Value = serde_json::from_slice(&std::fs::read(&owner)?)?;
    recorded["process"][1] = 1.into();
    std::fs::write(&owner, recorded.to_string())?;
    Lab::sweep()?;
    assert!(!namespaces()?.contains(&lab.namespace()));
    assert!(!lab.dir().exists());
    Ok(())
}

#[test]
fn failed_run_leaves_only_its_logs() {
    let mut gone = None;
    let failed = lab::run("fails-on-purpose", async |lab| {
        gone = Some((lab.namespace(), lab.dir().to_owned()));
        let talker = lab.daemon("talker", "sh").args(["-c", "echo spoken; sleep 60"]);
        talker.start()?;
        await_condition("the words are in the log", Duration::from_secs(5), async || {
            Ok(talker.log().contains("spoken").then_some(()))
        })
        .await?;
        anyhow::bail!("as arranged")
    });
    assert_eq!(failed.unwrap_err().to_string(), "as arranged");
    let (namespace, dir) = gone.unwrap();
    assert!(!namespaces().unwrap().contains(&namespace));
    assert!(!dir.exists());
    let kept = dir.parent().unwrap().with_file_name("failed").join(dir.file_name().unwrap());
    assert_eq!(std::fs::read_to_string(kept.join("talker.log")).unwrap(), "spoken\n");
    std::fs::remove_dir_all(kept).unwrap();
}

fn command_lines() -> Result<Vec<String>> {
    let processes = std::fs::read_dir("/proc")?.filter_map(|entry| Some(entry.ok()?.path().join("cmdline")));
    Ok(processes
        .filter_map(|path| std::fs::read(path).ok())
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .collect())
}

fn namespaces() -> Result<String> {
    Ok(String::from_utf8(Command::new("ip").args(["netns", "list"]).output()?.stdout)?)
}
