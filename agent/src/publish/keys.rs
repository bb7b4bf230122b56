//! Keys for the broker that stand in files: an nkey's seed, or a credentials file with a JWT and a seed.
//!
//! They are read and proven before anything connects: the client library only says that the broker refuses it. Nothing of a
//! file is ever shown.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use async_nats::{AuthError, ConnectOptions};
use nkeys::{KeyPair, KeyPairType};

use super::broker_config::{BrokerConfig, BrokerConfigError};

const NKEY_OPTION: &str = "--broker-nkey-file or NATS_NKEY_FILE";
const CREDENTIALS_OPTION: &str = "--broker-credentials-file or NATS_CREDENTIALS_FILE";
/// Larger files hold something else.
const LONGEST: u64 = 64 * 1024;
/// Marks the line before the JWT.
const JWT_FOLLOWS: &str = "BEGIN NATS USER JWT";

/// Keys that let a client in.
pub(super) struct Keys {
    /// The seed of an nkey.
    nkey: Option<String>,
    /// A JWT, and the seed that it is for.
    credentials: Option<(String, String)>,
}

impl Keys {
    /// Reads the files that `config` names.
    pub(super) fn read(config: &BrokerConfig) -> Result<Self, BrokerConfigError> {
        let nkey = |path| read(path, "the seed of an nkey", NKEY_OPTION, seed);
        let creds = |path| read(path, "NATS credentials", CREDENTIALS_OPTION, credentials);
        Ok(Self {
            nkey: config.nkey_file.as_deref().map(nkey).transpose()?,
            credentials: config.credentials_file.as_deref().map(creds).transpose()?,
        })
    }

    /// What must never be shown.
    pub(super) fn secrets(&self) -> impl Iterator<Item = String> {
        let credentials = self.credentials.iter().flat_map(|(jwt, seed)| [jwt.clone(), seed.clone()]);
        self.nkey.iter().cloned().chain(credentials)
    }

    /// Lets a client authenticate with them.
    pub(super) fn add_to(self, options: ConnectOptions) -> ConnectOptions {
        let options = match self.nkey {
            Some(seed) => options.nkey(seed),
            None => options,
        };
        let Some((jwt, seed)) = self.credentials else { return options };
        let seed = Arc::new(seed);
        options.jwt(jwt, move |nonce| {
            let signed = KeyPair::from_seed(&seed).and_then(|pair| pair.sign(&nonce));
            std::future::ready(signed.map_err(AuthError::new))
        })
    }
}

fn read<T>(
    path: &Path,
    what: &'static str,
    option: &'static str,
    take: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, BrokerConfigError> {
    let found = text(path).and_then(|text| take(&text));
    found.map_err(|why| BrokerConfigError::File { what, path: path.to_owned(), why, option })
}

fn text(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    let read = file.take(LONGEST + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if read as u64 > LONGEST { Err("it is larger than any such file".to_owned()) } else { Ok(text) }
}

/// The seed, which may stand among comments and decoration.
fn seed(text: &str) -> Result<String, String> {
    let Some(seed) = text.lines().map(str::trim).find(|line| line.starts_with('S') && !line.contains(' ')) else {
        let is_public = text.lines().any(|line| line.trim().starts_with('U') && line.trim().len() == 56);
        return Err(if is_public {
            "it holds the public key; the seed, which begins with SU, is what is needed".to_owned()
        } else {
            "no line of it is a seed, which begins with SU, as `nk -gen user` writes it".to_owned()
        });
    };
    match KeyPair::from_seed(seed).map(|pair| pair.key_pair_type()) {
        Ok(KeyPairType::User) => Ok(seed.to_owned()),
        Ok(_) => Err("the seed in it is not that of a user, which begins with SU".to_owned()),
        Err(_) => Err("the seed in it is damaged: its checksum is not right".to_owned()),
    }
}

/// The JWT and the seed. Whether the broker takes that JWT, it says itself.
fn credentials(text: &str) -> Result<(String, String), String> {
    let mut lines = text.lines().map(str::trim).skip_while(|line| !line.contains(JWT_FOLLOWS)).skip(1);
    let jwt = lines.find(|line| !line.is_empty()).filter(|line| line.split('.').count() == 3);
    let Some(jwt) = jwt else {
        return Err("it holds no JWT of a user, as `nsc generate creds` writes it".to_owned());
    };
    Ok((jwt.to_owned(), seed(text)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn error_of(config: &BrokerConfig) -> String {
        Keys::read(config).err().map(|error| error.to_string()).unwrap_or_default()
    }

    fn creds(jwt: &str, seed: &str) -> String {
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n************************* IMPORTANT\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }

    #[test]
    fn a_seed_is_found_and_proven() {
        let (user, account) = (KeyPair::new_user(), KeyPair::new_account());
        let secret = user.seed().unwrap();
        assert_eq!(seed(&format!("# mine\n  {secret}\r\n")), Ok(secret.clone()));
        assert_eq!(seed(&creds("e30", &secret)), Ok(secret.clone()), "a credentials file has one, too");
        let damaged = format!("{}A", secret.get(..secret.len() - 1).unwrap());
        let damaged = if damaged == secret { damaged.replace("SU", "SUA") } else { damaged };
        for (text, why) in [
            (String::new(), "no line of it is a seed"),
            ("garbage".to_owned(), "no line of it is a seed"),
            (user.public_key(), "the public key"),
            (account.seed().unwrap(), "not that of a user"),
            (damaged, "damaged"),
        ] {
            let error = seed(&text).unwrap_err();
            assert!(error.contains(why), "{error}");
            assert!(text.is_empty() || !error.contains(&text), "it is shown: {error}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_option_and_never_quoted() {
        let secret = KeyPair::new_user().seed().unwrap();
        let none = Some(std::path::PathBuf::from("/nonexistent/key"));
        let error = error_of(&BrokerConfig { nkey_file: none.clone(), ..BrokerConfig::default() });
        assert!(error.contains("/nonexistent/key: No such file") && error.contains("NATS_NKEY_FILE"), "{error}");
        let error = error_of(&BrokerConfig { credentials_file: none, ..BrokerConfig::default() });
        assert!(error.contains("--broker-credentials-file"), "{error}");
        for (text, why) in [
            (creds("a.b.c", &secret).replace("JWT", "KEY"), "no JWT"),
            (creds("garbage", &secret), "no JWT"),
            (creds("a.b.c", ""), "no line of it is a seed"),
            (creds("a.b.c", "SUAAAA"), "damaged"),
            ("x".repeat(70_000), "larger than any"),
        ] {
            let file = file(text.as_bytes());
            let credentials_file = Some(file.path().to_owned());
            let error = error_of(&BrokerConfig { credentials_file, ..BrokerConfig::default() });
            assert!(error.contains(why) && !error.contains(&secret) && !error.contains("a.b.c"), "{error}");
        }
        let file = file(&[0xff, 0xfe, 0]);
        let nkey_file = Some(file.path().to_owned());
        assert!(error_of(&BrokerConfig { nkey_file, ..BrokerConfig::default() }).contains("UTF-8"));
    }

    #[test]
    fn what_is_read_is_hidden_wherever_it_turns_up() {
        let (one, other) = (KeyPair::new_user().seed().unwrap(), KeyPair::new_user().seed().unwrap());
        let jwt = "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.e30.c2ln";
        let (nkey, credentials) = (file(one.as_bytes()), file(creds(jwt, &other).as_bytes()));
        let config = BrokerConfig {
            nkey_file: Some(nkey.path().to_owned()),
            credentials_file: Some(credentials.path().to_owned()),
            ..BrokerConfig::default()
        };
        let secrets: Vec<String> = Keys::read(&config).unwrap().secrets().collect();
        assert_eq!(secrets, [one, jwt.to_owned(), other]);
    }
}
