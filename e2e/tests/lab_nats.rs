//! The lab's broker: outages on the same port, stored streams, tokens.

use std::time::Duration;

use anyhow::Result;
use meshsync_e2e::stream::{CORE_SUBJECT, Consumer};
use meshsync_e2e::{await_condition, lab};

const MESSAGE: &str = r#"{"ObjectType":"meshsync-data","EventType":"ADDED","Request":null,
    "Object":{"apiVersion":"v1","kind":"Pod","metadata":{"namespace":"n","name":"p"}}}"#;

#[test]
fn consumer_survives_an_outage_of_the_broker() -> Result<()> {
    lab::run("nats-outage", async |lab| {
        let nats = lab.nats().token("right").start().await?;
        let consumer = Consumer::subscribe(nats.client().await?, None).await?;
        nats.kill().await?;
        nats.start().await?;
        let publisher = nats.client().await?;
        await_condition("a message arrives after the outage", Duration::from_secs(10), async || {
            publisher.publish(CORE_SUBJECT, MESSAGE.into()).await?;
            Ok((consumer.view().count("v1", "Pod") == 1).then_some(()))
        })
        .await
    })
}

#[test]
fn broker_refuses_a_wrong_token() -> Result<()> {
    lab::run("nats-token", async |lab| {
        let nats = lab.nats().token("right").start().await?;
        let refused = async_nats::ConnectOptions::with_token("wrong".to_owned()).connect(nats.url()).await;
        assert!(refused.unwrap_err().to_string().contains("authorization"));
        Ok(())
    })
}

#[test]
fn stored_stream_survives_a_kill() -> Result<()> {
    lab::run("nats-jetstream", async |lab| {
        let nats = lab.nats().jetstream().start().await?;
        let context = async_nats::jetstream::new(nats.client().await?);
        let config = async_nats::jetstream::stream::Config {
            name: "kept".to_owned(),
            subjects: vec!["kept.>".to_owned()],
            ..Default::default()
        };
        context.create_stream(config).await?;
        context.publish("kept.a", "1".into()).await?.await?;
        nats.kill().await?;
        nats.start().await?;
        let stored = await_condition("the stream is back", Duration::from_secs(10), async || {
            let mut stream = context.get_stream("kept").await?;
            Ok(Some(stream.info().await?.state.messages))
        });
        assert_eq!(stored.await?, 1);
        Ok(())
    })
}
