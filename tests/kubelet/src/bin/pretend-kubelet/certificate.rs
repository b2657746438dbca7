//! The client certificate: the one on disk, or a new one for the bootstrap token.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use pretend_kubelet::{Root, log};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use x509_parser::pem::parse_x509_pem;

use crate::client::Client;
use crate::flags::Flags;
use crate::kubeconfig::{Kubeconfig, write_private};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// How long without a certificate until the kubelet ends, so that it starts again with what may be a new token.
/// Source: exitAfter of the kubelet's rotating transport.
const CERTIFICATE_WITHIN: Duration = Duration::from_secs(300);

const ASK_EVERY: Duration = Duration::from_millis(500);

/// What the request for a certificate needs to know.
pub(crate) struct Bootstrap<'a> {
    pub(crate) root: &'a Root,
    pub(crate) flags: &'a Flags,
    pub(crate) node: &'a str,
    pub(crate) version: &'a str,
}

impl Bootstrap<'_> {
    /// A client with the node's own certificate.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        let path =
            self.flags.get("kubeconfig").context("no --kubeconfig: standalone mode is not part of this kubelet")?;
        match self.existing(path) {
            Ok(client) => return Ok(client),
            Err(why) => {
                log(&format!("kubeconfig {path} is not valid, will attempt to use bootstrap kubeconfig: {why:#}"))
            }
        }
        let first =
            self.flags.get("bootstrap-kubeconfig").context("no usable kubeconfig and no --bootstrap-kubeconfig")?;
        let bootstrap = Kubeconfig::read(self.root, first).context("unable to load bootstrap kubeconfig")?;
        let client = Client::new(&bootstrap, None, self.version)?;
        let deadline = Instant::now() + CERTIFICATE_WITHIN;
        let identity = timeout_at(deadline, self.identity(&client)).await.context("no client certificate in time")?;
        let pem_path = self.store(&identity)?;
        bootstrap.write(self.root, path, &pem_path)?;
        Client::new(&bootstrap, Some(&identity), self.version)
    }

    /// A client with the certificate that the kubeconfig names, if it is valid now.
    fn existing(&self, path: &str) -> anyhow::Result<Client> {
        let kubeconfig = Kubeconfig::read(self.root, path)?;
        let (certificate, key) = kubeconfig.client.as_ref().context("it names no client certificate")?;
        let read = |path: &str| std::fs::read_to_string(self.root.at(path)).with_context(|| format!("open {path}"));
        let certificate = read(certificate)?;
        check_validity(&certificate)?;
        let key = read(key)?;
        let identity = if key == certificate { certificate } else { format!("{certificate}{key}") };
        Client::new(&kubeconfig, Some(&identity), self.version)
    }

    /// Asks for a certificate until there is one; certificate and key, PEM.
    async fn identity(&self, client: &Client) -> String {
        let mut pause = Duration::from_millis(500);
        loop {
            match self.request(client).await {
                Ok(identity) => return identity,
                Err(error) => {
                    log(&format!("Failed while requesting a signed certificate from the control plane: {error:#}"))
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(8));
        }
    }

    async fn request(&self, client: &Client) -> anyhow::Result<String> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{}", self.node));
        let pem = params.serialize_request(&key)?.pem()?;
        // RandomState differs for every request; the name need not be a secret.
        let name = format!("node-csr-{:016x}", RandomState::new().hash_one(&pem));
        let object = json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
            "spec": {
                "request": STANDARD.encode(pem),
                "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
                "usages": ["digital signature", "client auth"],
            },
        });
        let created = client.post(REQUESTS, &object).await?.success();
        created.context("cannot create certificate signing request")?;
        let certificate = signed(client, &name).await?;
        check_validity(&certificate)?;
        Ok(format!("{certificate}{}", key.serialize_pem()))
    }

    /// Writes the pair with a time in its name and points `kubelet-client-current.pem` to it; the path of the latter.
    fn store(&self, identity: &str) -> anyhow::Result<String> {
        let state = self.flags.get("root-dir").unwrap_or("/var/lib/kubelet");
        let folder = self.flags.get("cert-dir").map_or_else(|| format!("{state}/pki"), str::to_owned);
        let name = Timestamp::now().strftime("kubelet-client-%Y-%m-%d-%H-%M-%S.pem").to_string();
        let (file, current) = (format!("{folder}/{name}"), format!("{folder}/kubelet-client-current.pem"));
        write_private(&self.root.at(&file), identity).with_context(|| format!("cannot write {file}"))?;
        let target = if self.root.is_scratch() { &name } else { &file };
        let unfinished = self.root.at(format!("{current}.new"));
        let _ = std::fs::remove_file(&unfinished); // left by a kubelet that was killed here, or not there at all
        symlink(target, &unfinished).with_context(|| format!("cannot link {current}"))?;
        std::fs::rename(unfinished, self.root.at(&current)).with_context(|| format!("cannot link {current}"))?;
        Ok(current)
    }
}

/// Waits until a request is signed; its certificate, PEM.
async fn signed(client: &Client, name: &str) -> anyhow::Result<String> {
    let path = format!("{REQUESTS}/{name}");
    loop {
        let request = client.get(&path).await?.success()?;
        if let Some(certificate) = request["status"]["certificate"].as_str().filter(|text| !text.is_empty()) {
            return Ok(String::from_utf8(STANDARD.decode(certificate)?)?);
        }
        let conditions = request["status"]["conditions"].as_array().into_iter().flatten();
        for condition in conditions.map(|condition: &Value| &condition["type"]) {
            if condition == "Denied" || condition == "Failed" {
                bail!("certificate signing request {name} is {condition}, will not be retried");
            }
        }
        sleep(ASK_EVERY).await;
    }
}

fn check_validity(pem: &str) -> anyhow::Result<()> {
    let (_, block) = parse_x509_pem(pem.as_bytes()).ok().context("no PEM block")?;
    let certificate = block.parse_x509().context("the first PEM block is no certificate")?;
    let validity = certificate.validity();
    if validity.is_valid() {
        return Ok(());
    }
    bail!("certificate is valid from {} to {} only", validity.not_before, validity.not_after)
}
