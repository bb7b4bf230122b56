//! What a broker's URL says: where it is, and a credential that must never be shown.

use async_nats::ServerAddr;

use super::broker::{BrokerConfig, BrokerConfigError};

impl BrokerConfig {
    /// The URL without credentials.
    #[must_use]
    pub fn public_url(&self) -> String {
        let (scheme, _, host) = self.parts();
        match split_port(host) {
            // Who forgets `@host` has a password here.
            (name, Some(port)) if !is_port(port) => format!("{scheme}://{name}:…"),
            _ => format!("{scheme}://{host}"),
        }
    }

    /// The address, and the token if the URL has one: `nats://TOKEN@host` holds a token, not a user without password.
    pub(super) fn address(&self) -> Result<(ServerAddr, Option<String>), BrokerConfigError> {
        let (scheme, credentials, host) = self.parts();
        let (url, token) = match credentials {
            Some(credentials) if credentials.contains(':') => (format!("{scheme}://{credentials}@{host}"), None),
            Some(token) => (format!("{scheme}://{host}"), Some(token.to_owned())),
            None => (format!("{scheme}://{host}"), None),
        };
        if host.is_empty() || !matches!(scheme, "nats" | "tls") {
            return Err(BrokerConfigError::Url("scheme must be nats or tls, and a host must follow".to_owned()));
        }
        check_port(host)?;
        let address = url.parse().map_err(|_| BrokerConfigError::Url("not a URL".to_owned()))?;
        Ok((address, token))
    }

    /// Scheme, credentials, and what follows them.
    fn parts(&self) -> (&str, Option<&str>, &str) {
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("nats", &self.url));
        let (credentials, host) = rest.rsplit_once('@').map_or((None, rest), |(c, host)| (Some(c), host));
        (scheme, credentials, host)
    }
}

/// Name or address of the host, and what stands after its colon. An IPv6 address has colons too, in brackets.
fn split_port(host: &str) -> (&str, Option<&str>) {
    let authority = host.split(['/', '?', '#']).next().unwrap_or_default();
    let begin = authority.rfind(']').unwrap_or_default();
    let colon = authority.get(begin..).and_then(|after| after.find(':')).map(|at| begin + at);
    match colon.and_then(|colon| authority.split_at_checked(colon)) {
        Some((name, port)) => (name, port.strip_prefix(':')),
        None => (authority, None),
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// The client library only says that it is no URL.
fn check_port(host: &str) -> Result<(), BrokerConfigError> {
    match split_port(host) {
        (_, None) => Ok(()),
        (_, Some(port)) if is_port(port) => Ok(()),
        (name, Some(port)) => Err(BrokerConfigError::Url(
            // Anything else may be a password whose `@host` was forgotten.
            if !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()) {
                format!("port {port} of host {name} is not within 1 to 65535")
            } else {
                format!("what follows `{name}:` is not a port, which is a number from 1 to 65535")
            },
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> BrokerConfig {
        BrokerConfig { url: url.into(), ..BrokerConfig::default() }
    }

    #[test]
    fn every_spelling_of_the_original_is_understood() {
        for (url, host, port, token) in [
            ("nats://s3cret@broker:4222", "broker", 4222, Some("s3cret")),
            ("nats://user:s3cret@broker:4223", "broker", 4223, None),
            ("broker:4224", "broker", 4224, None),
            ("s3cret@broker:4225", "broker", 4225, Some("s3cret")),
            ("tls://broker", "broker", 4222, None),
            ("nats://[fd00::1]:65535", "[fd00::1]", 65535, None),
            ("nats://[fd00::1]", "[fd00::1]", 4222, None),
            ("nats://broker:1/", "broker", 1, None),
        ] {
            let (address, found) = config(url).address().unwrap();
            let url_of = address.clone().into_inner();
            assert_eq!((url_of.host_str(), address.port(), found.as_deref()), (Some(host), port, token), "{url}");
        }
    }

    #[test]
    fn a_port_that_is_none_is_named_with_what_would_be_right() {
        for (url, said) in [
            ("nats://h:99999", "port 99999 of host h is not within 1 to 65535"),
            ("nats://h:0", "port 0 of host h is not within 1 to 65535"),
            ("tls://t0ken@h:65536", "port 65536 of host h is not within 1 to 65535"),
            ("nats://[::1]:70000", "port 70000 of host [::1] is not within 1 to 65535"),
            ("nats://h:port", "what follows `h:` is not a port, which is a number from 1 to 65535"),
            ("nats://h:", "what follows `h:` is not a port"),
            ("nats://h:+1", "what follows `h:` is not a port"),
            ("nats://fd00::1", "what follows `fd00:` is not a port"),
        ] {
            let error = config(url).address().unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("--broker-url or BROKER_URL"), "{url}: {error}");
        }
    }

    #[test]
    fn no_credential_is_ever_shown() {
        for url in [
            "nats://s3cret@broker:4222",
            "nats://u:s3cret@broker:4222",
            "http://s3cret@broker",
            "nats://s3cret@",
            "nats://s3cret@broker:99999",
            "nats://u:s3cret@broker:port",
            "nats://u:s3cret",
        ] {
            let config = BrokerConfig { token: Some("s3cret".into()), ..config(url) };
            let error = config.address().err().map(|e| e.to_string()).unwrap_or_default();
            let shown = format!("{config:?} {} {error}", config.public_url());
            assert!(!shown.contains("s3cret"), "{shown}");
        }
        assert!(config("http://broker").address().is_err());
        assert_eq!(config("nats://u:s3cret@[::1]:4222").public_url(), "nats://[::1]:4222");
    }
}
