//! The cluster's id: without it every row is invisible to Meshery Server.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use meshsync_crds::names::CLUSTER_ID_NAMESPACE;
use meshsync_runtime::readiness::Gate;

/// Wait after the first attempt, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// Longest text of a server that is shown.
const SHOWN: usize = 200;

/// Asks until it is answered. The same problem is logged once.
pub(crate) async fn ask_cluster_id(client: &Client, gate: &Gate) -> String {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let (mut delay, mut told) = (RETRY.0, String::new());
    loop {
        let problem = match namespaces.get(CLUSTER_ID_NAMESPACE).await {
            Ok(namespace) => match namespace.metadata.uid {
                Some(uid) => return uid,
                None => "it has no uid".to_owned(),
            },
            Err(kube::Error::Api(status)) if status.code == 403 => format!(
                "this account may not get it; grant that, or name an id with `clusterId` in the configuration (--config); \
                 the server says: {}",
                shown(&status.message)
            ),
            Err(kube::Error::Api(status)) => format!("{} {}", status.code, shown(&status.message)),
            Err(error) => shown(&meshsync_runtime::client::chain(&error)),
        };
        let problem =
            format!("cannot read the namespace {CLUSTER_ID_NAMESPACE}, whose uid is the cluster's id: {problem}");
        if problem != told {
            tracing::error!("nothing is published: {problem}");
        }
        gate.close(problem.clone());
        told = problem;
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(RETRY.1);
    }
}

/// A server's words, on one line.
fn shown(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN).collect()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "answers come from a script")]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use meshsync_runtime::readiness::Readiness;
    use tower_test::mock;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_may_not_be_read_is_told_with_the_remedy_and_asked_for_seldom() {
        let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
        let server = tokio::spawn(async move {
            let mut asked = 0;
            while let Some((_, send)) = handle.next_request().await {
                asked += 1;
                let (status, body) = match asked {
                    ..15 => (
                        403,
                        r#"{"kind":"Status","status":"Failure","code":403,"reason":"Forbidden","message":"no\nway"}"#,
                    ),
                    _ => (200, r#"{"metadata":{"name":"kube-system","uid":"u1"}}"#),
                };
                let answer = Response::builder().status(status).body(Body::from(body.as_bytes().to_vec()));
                send.send_response(answer.unwrap());
            }
        });
        let readiness = Readiness::default();
        let gate = readiness.gate("cluster-id", "not known yet");
        let began = tokio::time::Instant::now();
        let asking = tokio::spawn(async move { ask_cluster_id(&Client::new(service, "default"), &gate).await });
        tokio::time::sleep(Duration::from_secs(60)).await;
        let reason = readiness.report().gates[0].reason.clone().unwrap();
        assert!(reason.contains("clusterId") && reason.contains("no way") && !reason.contains('\n'), "{reason}");
        assert_eq!(asking.await.unwrap(), "u1");
        assert!(began.elapsed() > Duration::from_secs(600), "{:?} for 15 requests", began.elapsed());
        server.await.unwrap();
    }
}
