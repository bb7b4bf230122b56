//! What a broker's URL says: where it is, and a credential that must never be shown.

use async_nats::ServerAddr;

use super::broker_config::{BrokerConfig, BrokerConfigError};

impl BrokerConfig {
    /// The URLs without credentials.
    #[must_use]
    pub fn public_url(&self) -> String {
        urls(&self.url).into_iter().map(Url::public).collect::<Vec<_>>().join(",")
    }

    /// The addresses without credentials, and those that the URLs have. The client library ignores a user and password in an
    /// address, so they must be handed to it otherwise.
    pub(super) fn addresses(&self) -> Result<(Vec<ServerAddr>, Option<Credentials>), BrokerConfigError> {
        let mut addresses = Vec::new();
        let mut known: Option<Credentials> = None;
        for url in urls(&self.url) {
            let (address, credentials) = url.address()?;
            addresses.push(address);
            let Some(credentials) = credentials else { continue };
            if known.as_ref().is_some_and(|known| *known != credentials) {
                let problem = "its parts hold different credentials, but all servers of a cluster get the same";
                return Err(BrokerConfigError::Url(problem.to_owned()));
            }
            known = Some(credentials);
        }
        Ok((addresses, known))
    }

    /// Passwords and tokens as the URLs spell them.
    pub(super) fn spelt_secrets(&self) -> impl Iterator<Item = String> {
        urls(&self.url).into_iter().filter_map(|url| url.spelt_secret().map(str::to_owned))
    }
}

/// Servers of one cluster, separated by commas. A password may have some, too: they separate only where another scheme follows,
/// or where all there is are hosts and ports.
fn urls(text: &str) -> Vec<Url<'_>> {
    let text = text.trim();
    let is_bare = |part: &str| !part.is_empty() && !part.contains(['@', '/']) && split_port(part).1.is_none_or(is_port);
    if text.split(',').all(|part| is_bare(part.trim())) {
        return text.split(',').map(|part| Url(part.trim())).collect();
    }
    let begins = |at: &usize| {
        let rest = text.get(at + 1..).unwrap_or_default().trim_start();
        rest.starts_with("nats://") || rest.starts_with("tls://")
    };
    let mut parts = Vec::new();
    let mut from = 0;
    for (at, _) in text.match_indices(',').filter(|(at, _)| begins(at)) {
        parts.push(text.get(from..at).unwrap_or_default());
        from = at + 1;
    }
    parts.push(text.get(from..).unwrap_or_default());
    parts.into_iter().map(|part| Url(part.trim())).collect()
}

/// One server.
#[derive(Clone, Copy)]
struct Url<'a>(&'a str);

impl<'a> Url<'a> {
    fn public(self) -> String {
        let (scheme, _, host) = self.parts();
        match split_port(host) {
            // Who forgets `@host` has a password here.
            (name, Some(port)) if !is_port(port) => format!("{scheme}://{name}:…"),
            _ => format!("{scheme}://{host}"),
        }
    }

    fn address(self) -> Result<(ServerAddr, Option<Credentials>), BrokerConfigError> {
        let (scheme, credentials, host) = self.parts();
        let url = format!("{scheme}://{host}");
        if host.is_empty() || !matches!(scheme, "nats" | "tls") {
            return Err(BrokerConfigError::Url("scheme must be nats or tls, and a host must follow".to_owned()));
        }
        check_port(host)?;
        if host.contains(',') {
            let problem = "after a comma, another URL with its scheme must follow, as in nats://a:4222,nats://b:4222";
            return Err(BrokerConfigError::Url(problem.to_owned()));
        }
        let address = url.parse().map_err(|_| BrokerConfigError::Url("not a URL".to_owned()))?;
        Ok((address, credentials.map(Credentials::parse)))
    }

    /// The password or token as the URL spells it.
    fn spelt_secret(self) -> Option<&'a str> {
        let (_, credentials, _) = self.parts();
        credentials.map(|text| text.split_once(':').map_or(text, |(_, password)| password))
    }

    /// Scheme, credentials, and what follows them.
    fn parts(self) -> (&'a str, Option<&'a str>, &'a str) {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("nats", self.0));
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
            let (addresses, found) = config(url).addresses().unwrap();
            assert_eq!(addresses.len(), 1, "{url}");
            let address = &addresses[0];
            let url_of = address.clone().into_inner();
            assert_eq!((url_of.host_str(), address.port()), (Some(host), port), "{url}");
            assert!(found == credentials, "{url}");
            assert_eq!((url_of.username(), url_of.password()), ("", None), "{url}: the library would keep it");
        }
    }

    #[test]
    fn several_servers_are_told_apart_from_a_password_with_commas() {
        let hosts = |url: &str| -> Vec<String> {
            let (addresses, _) = config(url).addresses().unwrap();
            addresses.iter().map(|address| format!("{}:{}", address.host(), address.port())).collect()
        };
        assert_eq!(hosts("nats://a,nats://b:1 , tls://c"), ["a:4222", "b:1", "c:4222"]);
        assert_eq!(hosts("a, b:1"), ["a:4222", "b:1"]);
        assert_eq!(hosts("nats://u:p,w@a,nats://u:p,w@b"), ["a:4222", "b:4222"]);
        assert_eq!(hosts("nats://u:p,w@a"), ["a:4222"]);
        let several = config("nats://u:s3cret@a,nats://b");
        assert_eq!(several.public_url(), "nats://a,nats://b");
        let password = Credentials::User("u".into(), "s3cret".into());
        assert!(several.addresses().unwrap().1 == Some(password));
        let different = config("nats://u:s3cret@a,nats://u:0ther@b").addresses().err().unwrap().to_string();
        assert!(different.contains("different credentials") && !different.contains("s3cret"), "{different}");
        for wrong in ["nats://a,nats://", "nats://a,", "a,,b", "nats://a,b:99999", "nats://a,http://b"] {
            assert!(config(wrong).addresses().is_err(), "{wrong}");
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
            let error = config(url).addresses().err().unwrap().to_string();
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
            "nats://a,nats://u:s3cret@b",
            "nats://u:s3cret,nats://b",
            "nats://u:p,s3cret",
        ] {
            let config = BrokerConfig { token: Some("s3cret".into()), ..config(url) };
            let error = config.addresses().err().map(|e| e.to_string()).unwrap_or_default();
            let shown = format!("{config:?} {} {error}", config.public_url());
            assert!(!shown.contains("s3cret"), "{shown}");
        }
        assert!(config("http://broker").addresses().is_err());
        assert_eq!(config("nats://u:s3cret@[::1]:4222").public_url(), "nats://[::1]:4222");
    }
}
