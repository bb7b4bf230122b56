//! Keys, certificates and the administrator's token of one cluster.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use crate::lab::NODE_IP;

/// First address of the service range, which the API server takes for itself.
pub(super) const API_SERVICE_IP: &str = "10.96.0.1";

/// Paths of a cluster's credentials.
#[derive(Clone, Debug)]
pub(super) struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Creates all credentials in `dir`.
    pub(super) fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let pki = Self { dir: dir.to_owned() };
        let authority = authority()?;
        pki.write("ca.crt", &authority.certificate)?;

        let mut server = leaf("kube-apiserver", None, ExtendedKeyUsagePurpose::ServerAuth)?;
        let names = ["127.0.0.1", API_SERVICE_IP, "localhost", "kubernetes.default.svc"];
        let names = names.into_iter().map(str::to_owned).chain([NODE_IP.to_string()]);
        server.subject_alt_names = CertificateParams::new(names.collect::<Vec<_>>())?.subject_alt_names;
        pki.issue("apiserver", server, &authority)?;
        // The API server is a client of the kubelet (logs, exec), which asks it in turn whether that client may.
        let client = leaf("apiserver-kubelet", Some("system:masters"), ExtendedKeyUsagePurpose::ClientAuth)?;
        pki.issue("kubelet-client", client, &authority)?;

        let accounts = KeyPair::generate()?;
        pki.write("accounts.key", &accounts.serialize_pem())?;
        pki.write("accounts.pub", &accounts.public_key_pem())?;

        let token = random_token()?;
        pki.write("admin.token", &token)?;
        pki.write("tokens.csv", &format!("{token},admin,1,\"system:masters\"\n"))?;
        Ok(pki)
    }

    /// The credentials that are in `dir` already.
    pub(super) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Path of one file: `ca.crt`, `apiserver.crt`, `apiserver.key`, `kubelet-client.crt`, `kubelet-client.key`,
    /// `accounts.key`, `accounts.pub`, `tokens.csv`.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// The administrator's bearer token.
    pub(super) fn admin_token(&self) -> Result<String> {
        fs::read_to_string(self.path("admin.token")).context("cannot read the administrator's token")
    }

    fn issue(&self, name: &str, params: CertificateParams, authority: &Authority) -> Result<()> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &authority.issuer)?;
        self.write(&format!("{name}.crt"), &certificate.pem())?;
        self.write(&format!("{name}.key"), &key.serialize_pem())
    }

    fn write(&self, file: &str, content: &str) -> Result<()> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = self.path(file);
        let open = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
        open.and_then(|mut open| std::io::Write::write_all(&mut open, content.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Result<Authority> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "meshsync-lab");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    valid_for_decades(&mut params);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.pem();
    Ok(Authority { certificate, issuer: Issuer::new(params, key) })
}

fn leaf(common_name: &str, group: Option<&str>, usage: ExtendedKeyUsagePurpose) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.extended_key_usages = vec![usage];
    valid_for_decades(&mut params);
    Ok(params)
}

/// A lab lives for hours on machines whose clocks may be far off: validity is no property that it tests.
fn valid_for_decades(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2060, 1, 1);
}

fn random_token() -> Result<String> {
    let mut bytes = [0_u8; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
