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

    /// The address without credentials, and those that the URL has. The client library ignores a user and password in an
    /// address, so they must be handed to it otherwise.
    pub(super) fn address(&self) -> Result<(ServerAddr, Option<Credentials>), BrokerConfigError> {
        let (scheme, credentials, host) = self.parts();
        let url = format!("{scheme}://{host}");
        if host.is_empty() || !matches!(scheme, "nats" | "tls") {
            return Err(BrokerConfigError::Url("scheme must be nats or tls, and a host must follow".to_owned()));
        }
        check_port(host)?;
        let address = url.parse().map_err(|_| BrokerConfigError::Url("not a URL".to_owned()))?;
        Ok((address, credentials.map(Credentials::parse)))
    }

    /// The password or token as the URL spells it.
    pub(super) fn spelt_secret(&self) -> Option<String> {
        let (_, credentials, _) = self.parts();
        credentials.map(|text| text.split_once(':').map_or(text, |(_, password)| password).to_owned())
    }

    /// Scheme, credentials, and what follows them.
    fn parts(&self) -> (&str, Option<&str>, &str) {
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("nats", &self.url));
        let (credentials, host) = rest.rsplit_once('@').map_or((None, rest), |(c, host)| (Some(c), host));
        (scheme, credentials, host)
    }
}

/// What stands before the `@` of a URL.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// `nats://TOKEN@host` holds a token, not a user without password.
    Token(String),
    /// `nats://user:password@host`.
    User(String, String),
}

impl Credentials {
    fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((user, password)) => Self::User(percent_decoded(user), percent_decoded(password)),
            None => Self::Token(percent_decoded(text)),
        }
    }
}

/// `text` with each `%XX` resolved, which is how a URL spells `@`, `/` and the like. What is no such spelling stands for itself:
/// many a password has a percent sign.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    out.extend(parts.next().unwrap_or_default().bytes());
    for part in parts {
        let spelt = part.split_at_checked(2).filter(|(digits, _)| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match spelt.and_then(|(digits, rest)| Some((u8::from_str_radix(digits, 16).ok()?, rest))) {
            Some((byte, rest)) => {
                out.push(byte);
                out.extend(rest.bytes());
            }
            None => {
                out.push(b'%');
                out.extend(part.bytes());
            }
        }
    }
    // Bytes that spell no text are not what was meant.
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
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
        let token = |token: &str| Credentials::Token(token.to_owned());
        let user = |user: &str, password: &str| Credentials::User(user.to_owned(), password.to_owned());
        for (url, host, port, credentials) in [
            ("nats://s3cret@broker:4222", "broker", 4222, Some(token("s3cret"))),
            ("nats://user:s3cret@broker:4223", "broker", 4223, Some(user("user", "s3cret"))),
            ("broker:4224", "broker", 4224, None),
            ("s3cret@broker:4225", "broker", 4225, Some(token("s3cret"))),
            ("user:s3cret@broker:4226", "broker", 4226, Some(user("user", "s3cret"))),
            ("nats://us%40er:p%3Aa%2fs%25s@broker", "broker", 4222, Some(user("us@er", "p:a/s%s"))),
            ("nats://u:a@b:c@broker", "broker", 4222, Some(user("u", "a@b:c"))),
            ("nats://u:50%@broker", "broker", 4222, Some(user("u", "50%"))),
            ("nats://u:%ff%zz%+1@broker", "broker", 4222, Some(user("u", "%ff%zz%+1"))),
            ("nats://t%6fken@broker", "broker", 4222, Some(token("token"))),
            ("nats://u:@broker", "broker", 4222, Some(user("u", ""))),
            ("nats://u:s3cret@[::1]:4227", "[::1]", 4227, Some(user("u", "s3cret"))),
            ("tls://broker", "broker", 4222, None),
            ("nats://[fd00::1]:65535", "[fd00::1]", 65535, None),
            ("nats://[fd00::1]", "[fd00::1]", 4222, None),
            ("nats://broker:1/", "broker", 1, None),
        ] {
            let (address, found) = config(url).address().unwrap();
            let url_of = address.clone().into_inner();
            assert_eq!((url_of.host_str(), address.port()), (Some(host), port), "{url}");
            assert!(found == credentials, "{url}");
            assert_eq!((url_of.username(), url_of.password()), ("", None), "{url}: the library would keep it");
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
            let error = config(url).address().err().unwrap().to_string();
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
