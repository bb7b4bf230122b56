//! Who is subscribed to a subject, told by the servers themselves.
//!
//! A message with the header `Nats-Trace-Dest` is traced (ADR-41, nats-server 2.11 or newer): each server that it passes tells
//! that subject to whom it would deliver, by the subject of the subscription. That tells those who listen to just this
//! subject from those who listen to everything, which "no responders" does not. Pure but for the message's headers.

use std::collections::HashSet;

use async_nats::HeaderMap;
use serde::Deserialize;

/// Where servers tell of a message.
const DESTINATION: &str = "Nats-Trace-Dest";
/// Nobody is to get the message itself.
const ONLY: &str = "Nats-Trace-Only";
/// An event of a message that leaves the server.
const EGRESS: &str = "eg";

/// The headers of a message that is delivered to nobody, and of which servers tell `destination`.
pub(in crate::publish) fn headers(destination: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(DESTINATION, destination);
    headers.insert(ONLY, "true");
    headers
}

/// What is known of one traced message.
#[derive(Debug, Default)]
pub(in crate::publish) struct Trace {
    /// Hops that were told of; the first has no name.
    told: HashSet<String>,
    /// Hops that the message was sent to.
    announced: HashSet<String>,
    /// Whether somebody listens to the subject itself, or might: a server that does not trace is on the way.
    listens: bool,
}

impl Trace {
    /// Takes in what one server tells of a message to `subject`.
    pub(in crate::publish) fn take_in(&mut self, subject: &str, told: &[u8]) {
        let Ok(Told { request, events }) = serde_json::from_slice(told) else {
            self.listens = true;
            return;
        };
        self.told.insert(request.header.hop.into_iter().next().unwrap_or_default());
        for Event { of, sub, hop, error } in events {
            if of != EGRESS {
                continue;
            }
            // Where it went to no client it has a hop. One without is a server that cannot be asked.
            match (sub.as_deref(), hop) {
                (_, Some(hop)) => {
                    self.announced.insert(hop);
                }
                (Some(sub), None) => self.listens |= sub == subject,
                (None, None) => self.listens |= error.is_some(),
            }
        }
    }

    /// Whether all servers on the message's way have told of it, and nobody listens to its subject itself.
    pub(in crate::publish) fn shows_nobody(&self) -> bool {
        self.told.contains("") && self.announced.is_subset(&self.told) && !self.listens
    }
}

/// What a server tells.
#[derive(Deserialize)]
struct Told {
    request: Request,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    header: Header,
}

#[derive(Default, Deserialize)]
struct Header {
    /// Which hop of the message's way the server is; absent at the first.
    #[serde(default, rename = "Nats-Trace-Hop")]
    hop: Vec<String>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    of: String,
    /// Subject of the subscription, where the message goes to a client.
    sub: Option<String>,
    hop: Option<String>,
    error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nats-server 2.15.2 tells it, without members that nobody reads.
    fn server(hop: &str, events: &str) -> String {
        let hop = if hop.is_empty() { String::new() } else { format!(r#","Nats-Trace-Hop":["{hop}"]"#) };
        format!(
            r#"{{"server":{{"id":"S"}},"request":{{"header":{{"Nats-Trace-Only":["true"]{hop}}},"msgsize":59}},"events":[
                {{"type":"in","ts":"2026-11-28T08:11:07Z","kind":0,"cid":14,"acc":"$G","subj":"turn.c"}}{events}]}}"#
        )
    }

    fn client(sub: &str) -> String {
        format!(r#",{{"type":"eg","kind":0,"cid":13,"name":"x","sub":"{sub}"}}"#)
    }

    fn route(hop: &str) -> String {
        format!(r#",{{"type":"eg","kind":1,"cid":10,"name":"S2","hop":"{hop}"}}"#)
    }

    fn shows_nobody(servers: &[String]) -> bool {
        let mut trace = Trace::default();
        servers.iter().for_each(|told| trace.take_in("turn.c", told.as_bytes()));
        trace.shows_nobody()
    }

    #[test]
    fn who_listens_to_everything_is_not_the_predecessor() {
        assert!(shows_nobody(&[server("", "")]));
        assert!(shows_nobody(&[server("", &(client("\\u003e") + &client("turn.*")))]));
        assert!(!shows_nobody(&[server("", &(client("\\u003e") + &client("turn.c")))]));
    }

    #[test]
    fn every_server_on_the_way_is_waited_for() {
        let first = || server("", &(route("1") + &client("\\u003e") + &route("2")));
        let (second, third) = (server("1", &client("turn.*")), server("2", &route("2.1")));
        let fourth = || server("2.1", "");
        assert!(!shows_nobody(&[]));
        assert!(!shows_nobody(&[first(), second.clone()]));
        assert!(!shows_nobody(&[second.clone(), fourth(), first()]));
        assert!(shows_nobody(&[second.clone(), fourth(), first(), third.clone()]));
        let found = server("2.1", &client("turn.c"));
        assert!(!shows_nobody(&[first(), second, third, found]));
    }

    #[test]
    fn what_says_nothing_shows_nothing() {
        assert!(!shows_nobody(&["pong".to_owned()]), "somebody who answers whatever he hears");
        let old = r#",{"type":"eg","kind":1,"cid":10,"error":"Not delivered because remote does not support message tracing"}"#;
        assert!(!shows_nobody(&[server("", old)]));
    }
}
