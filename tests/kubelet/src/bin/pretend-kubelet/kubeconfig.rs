//! Kubeconfig files: the one with the bootstrap token, and the one the kubelet writes.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pretend_kubelet::Root;
use serde_json::Value;

/// The current context of a kubeconfig.
#[derive(Clone)]
pub(crate) struct Kubeconfig {
    pub(crate) server: String,
    /// The cluster's authorities, PEM.
    pub(crate) ca_pem: String,
    pub(crate) token: Option<String>,
    /// The files of the client certificate and its key.
    pub(crate) client: Option<(String, String)>,
    /// The line that names the authority.
    authority_line: String,
}

impl Kubeconfig {
    /// Reads a file, YAML or JSON.
    pub(crate) fn read(root: &Root, path: &str) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(root.at(path)).with_context(|| format!("stat {path}"))?;
        let value: Value = serde_saphyr::from_str(&text)
            .ok() // the parser's message may repeat the file, which holds a secret
            .with_context(|| format!("error loading config file {path:?}: it is no YAML"))?;
        let fault = |what: &str| format!("invalid configuration in {path}: {what}");
        let context = named(&value, "contexts", "context", &value["current-context"])
            .with_context(|| fault("no current context"))?;
        let cluster = named(&value, "clusters", "cluster", &context["cluster"]).with_context(|| fault("no cluster"))?;
        let user = named(&value, "users", "user", &context["user"]).with_context(|| fault("no user"))?;
        let (authority_line, ca_pem) = authority(root, cluster)?;
        let certificate = text_of(user, "client-certificate").zip(text_of(user, "client-key"));
        Ok(Self {
            server: text_of(cluster, "server").with_context(|| fault("no server"))?.to_owned(),
            ca_pem,
            token: text_of(user, "token").map(str::to_owned),
            client: certificate.map(|(certificate, key)| (certificate.to_owned(), key.to_owned())),
            authority_line,
        })
    }

    /// Writes the file that refers to the client certificate at `pem_path`, as the real kubelet writes it.
    pub(crate) fn write(&self, root: &Root, path: &str, pem_path: &str) -> anyhow::Result<()> {
        let text = format!(
            "apiVersion: v1\nclusters:\n- cluster:\n    {}\n    server: {}\n  name: default-cluster\ncontexts:\n\
             - context:\n    cluster: default-cluster\n    namespace: default\n    user: default-auth\n  \
             name: default-context\ncurrent-context: default-context\nkind: Config\nusers:\n- name: default-auth\n  \
             user:\n    client-certificate: {pem_path}\n    client-key: {pem_path}\n",
            self.authority_line, self.server
        );
        write_private(&root.at(path), &text).with_context(|| format!("cannot write {path}"))
    }
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().context("it has no folder")?;
    std::fs::create_dir_all(folder)?;
    let unfinished = path.with_extension("tmp");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(std::fs::rename(unfinished, path)?)
}

fn named<'a>(value: &'a Value, list: &str, inner: &str, name: &Value) -> Option<&'a Value> {
    value[list].as_array()?.iter().find(|item| item["name"] == *name).map(|item| &item[inner])
}

fn text_of<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value[field].as_str().filter(|text| !text.is_empty())
}

fn authority(root: &Root, cluster: &Value) -> anyhow::Result<(String, String)> {
    if let Some(data) = text_of(cluster, "certificate-authority-data") {
        let pem = STANDARD.decode(data).context("certificate-authority-data")?;
        let pem = String::from_utf8(pem).context("certificate-authority-data")?;
        return Ok((format!("certificate-authority-data: {data}"), pem));
    }
    let path = text_of(cluster, "certificate-authority").context("the cluster has no certificate authority")?;
    let fault = || format!("unable to read certificate-authority {path}");
    Ok((format!("certificate-authority: {path}"), std::fs::read_to_string(root.at(path)).with_context(fault)?))
}
