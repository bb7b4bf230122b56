//! Whatever NATS offers for authentication and protection, an agent can use; what it cannot use, it names.

#![allow(clippy::disallowed_methods, reason = "a test has a limit of its own")]
#![allow(clippy::indexing_slicing, reason = "tests may panic")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshsync_e2e::lab::Lab;
use meshsync_e2e::process::Daemon;
use meshsync_e2e::{await_condition, lab, shared};
use nkeys::KeyPair;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);

/// Without cluster there is nothing to hear of; the broker knows who is connected.
async fn is_let_in(tail: &Daemon, user: &str) -> Result<()> {
    await_condition(&format!("{user} is let in"), DEADLINE, async || {
        tail.ensure_running()?;
        let monitor = kube::Client::try_from(kube::Config::new("http://127.0.0.1:8222".parse()?))?;
        let request = http::Request::get("/connz?auth=true").body(Vec::new())?;
        let connections: Value = serde_json::from_str(&monitor.request_text(request).await?)?;
        let is_it = |connection: &Value| {
            connection["name"] == "meshsync" && (user.is_empty() || connection["authorized_user"] == user)
        };
        Ok(connections["connections"].as_array().is_some_and(|all| all.iter().any(is_it)).then_some(()))
    })
    .await
}

/// What it writes when it cannot begin.
async fn is_refused(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let tail = lab.agent()?.arg("tail").args(arguments);
    tail.start()?;
    let status = tail.wait(DEADLINE).await?;
    ensure!(!status.success(), "it began with {arguments:?}");
    Ok(tail.log())
}

fn write(lab: &Lab, name: &str, text: &str) -> Result<PathBuf> {
    let path = lab.dir().join(name);
    std::fs::write(&path, text).context("cannot write a file")?;
    Ok(path)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

#[test]
fn an_nkey_lets_the_agent_in_and_a_wrong_file_is_named() -> Result<()> {
    lab::run("access-nkey", async |lab| {
        let user = KeyPair::new_user();
        let nats = lab.nats().setting("authorization", json!({"users": [{"nkey": user.public_key()}]})).start().await?;
        let seed = user.seed()?;
        let file = write(lab, "user.nk", &format!("# mine\n{seed}\n"))?;
        let tail = lab.agent()?.args(["tail", "--broker-url", &nats.url(), "--broker-nkey-file"]).arg(&file);
        tail.start()?;
        is_let_in(&tail, &user.public_key()).await?;
        ensure!(!tail.log().contains(&seed), "the seed is shown: {}", tail.log());
        tail.kill().await?;

        let garbage = write(lab, "garbage.nk", "SUgarbage")?;
        let stranger = KeyPair::new_user().seed()?;
        let strange = write(lab, "stranger.nk", &stranger)?;
        for (file, said) in [
            ("/nonexistent/user.nk", "/nonexistent/user.nk: No such file"),
            (text(&garbage), "damaged"),
            (text(&strange), "authorization violation"),
        ] {
            let log = is_refused(lab, &["--broker-url", &nats.url(), "--broker-nkey-file", file]).await?;
            ensure!(log.contains(said) && log.contains("--broker-nkey-file"), "{file}: {log}");
            ensure!(!log.contains("SUgarbage") && !log.contains(&stranger), "{log}");
        }
        Ok(())
    })
}

/// A JWT as NATS has them.
fn jwt(issuer: &KeyPair, subject: &str, claims: &Value) -> Result<String> {
    let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = encoded(&json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let body = encoded(&json!({
        "jti": "TEST", "iat": 1_700_000_000, "iss": issuer.public_key(), "name": "lab", "sub": subject, "nats": claims,
    }));
    let signed = issuer.sign(format!("{header}.{body}").as_bytes())?;
    Ok(format!("{header}.{body}.{}", URL_SAFE_NO_PAD.encode(signed)))
}

#[test]
fn a_credentials_file_lets_the_agent_in() -> Result<()> {
    lab::run("access-creds", async |lab| {
        let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
        let of_operator = jwt(&operator, &operator.public_key(), &json!({"type": "operator", "version": 2}))?;
        let limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1});
        let claims = json!({"type": "account", "version": 2, "limits": limits});
        let of_account = jwt(&operator, &account.public_key(), &claims)?;
        let claims = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}});
        let of_user = jwt(&account, &user.public_key(), &claims)?;
        let accounts = serde_json::Map::from_iter([(account.public_key(), json!(of_account))]);
        let nats = lab
            .nats()
            .setting("operator", json!(of_operator))
            .setting("resolver", json!("MEMORY"))
            .setting("resolver_preload", Value::Object(accounts))
            .start()
            .await?;
        let seed = user.seed()?;
        let creds = format!(
            "-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n\
             {seed}\n------END USER NKEY SEED------\n"
        );
        let file = write(lab, "user.creds", &creds)?;
        let tail = lab.agent()?.args(["tail", "--broker-url", &nats.url()]).env("NATS_CREDENTIALS_FILE", &file);
        tail.start()?;
        is_let_in(&tail, &user.public_key()).await?;
        let log = tail.log();
        ensure!(!log.contains(&seed) && !log.contains(&of_user), "a key is shown: {log}");
        tail.kill().await?;

        let half = write(lab, "half.creds", &creds.replace("JWT", "KEY"))?;
        let log = is_refused(lab, &["--broker-url", &nats.url(), "--broker-credentials-file", text(&half)]).await?;
        ensure!(log.contains("no JWT of a user") && log.contains("nsc generate creds"), "{log}");
        ensure!(!log.contains(&seed) && !log.contains(&of_user), "a key is shown: {log}");
        Ok(())
    })
}

#[test]
fn of_several_servers_the_one_that_is_there_is_used() -> Result<()> {
    lab::run("access-urls", async |lab| {
        let nats = lab.nats().start().await?;
        // Nobody listens at the first.
        let urls = format!("nats://127.0.0.1:14222,{}", nats.url());
        let tail = lab.agent()?.args(["tail", "--broker-url", &urls]);
        tail.start()?;
        is_let_in(&tail, "").await?;
        // It comes back, too.
        nats.kill().await?;
        await_condition("it is lost", DEADLINE, async || Ok(tail.log().contains("is lost").then_some(()))).await?;
        nats.start().await?;
        is_let_in(&tail, "").await
    })
}

#[test]
fn tls_may_come_before_the_first_word() -> Result<()> {
    lab::run("access-handshake", async |lab| {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2060, 1, 1);
        let certificate = write(lab, "nats.crt", &params.self_signed(&key)?.pem())?;
        let key = write(lab, "nats.key", &key.serialize_pem())?;
        let tls = json!({"cert_file": text(&certificate), "key_file": text(&key), "handshake_first": true});
        let nats = lab.nats().setting("tls", tls).start().await?;
        let url = nats.url().replace("nats://", "tls://");
        let arguments = ["--broker-url", url.as_str(), "--broker-ca-file", text(&certificate)];
        let log = is_refused(lab, &arguments).await?;
        ensure!(log.contains("no connection to tls://127.0.0.1:4222"), "{log}");
        let tail = lab.agent()?.arg("tail").args(arguments).arg("--broker-tls-first");
        tail.start()?;
        is_let_in(&tail, "").await
    })
}

#[test]
fn the_stream_holds_as_many_bytes_as_it_may() -> Result<()> {
    shared::run("access-bytes", async |lab, cluster| {
        let nats = lab.nats().jetstream().start().await?;
        let agent = |name: &str, arguments: &[&str]| -> Result<Daemon> {
            let agent = lab.agent_named(name)?.arg("run").arg("--kubeconfig").arg(cluster.kubeconfig());
            let agent = agent.args(arguments).env("BROKER_URL", nats.url());
            agent.start().map(|()| agent)
        };
        let jetstream = jetstream::new(nats.client().await?);
        let bytes = async |wanted: i64| {
            await_condition(&format!("the stream may hold {wanted} bytes"), DEADLINE, async || {
                let stream = jetstream.get_stream(jetstream.stream_by_subject("meshsync.state.>").await?).await?;
                Ok((stream.cached_info().config.max_bytes == wanted).then_some(()))
            })
            .await
        };
        let first = agent("first-agent", &["--stream-max-bytes", "64Mi"])?;
        bytes(64 << 20).await?;
        first.kill().await?;
        let second = agent("second-agent", &["--stream-max-bytes", "96Mi"])?;
        bytes(96 << 20).await?;
        second.kill().await?;
        // What an administrator set stays where nothing is asked for.
        let third = agent("third-agent", &[])?;
        await_condition("it reads the stream", DEADLINE, async || {
            Ok(third.log().contains("stream read").then_some(()))
        })
        .await?;
        bytes(96 << 20).await
    })
}
