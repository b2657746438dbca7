//! Known secrets go in; nothing but the files that must hold them may have them afterwards, and those are for root alone.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use nap_e2e::node::{Node, TOKEN, api_options, text};
use serde_json::json;

const PRINCIPAL_SECRET: &str = "open-sesame-principal-secret";

/// Files that hold a secret because they are for it: cloud-init's copy, kubelet's key, azure.json, our copy.
const HOLDERS: &[&str] = &[
    "/var/lib/waagent/ovf-env.xml",
    "/etc/kubernetes/azure.json",
    "/etc/kubernetes/certs/kubeletserver.key",
    "/var/lib/nap-agent/config.json",
];

fn secrets() -> Vec<String> {
    let (_, token_secret) = TOKEN.split_once('.').unwrap();
    let plain = [token_secret, PRINCIPAL_SECRET];
    plain.iter().map(|text| (*text).to_owned()).chain(plain.iter().map(|text| BASE64.encode(text))).collect()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() && !path.is_symlink() { files(&path) } else { vec![path] }).collect()
}

fn holders(root: &Path) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    for path in files(root) {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if !metadata.is_file() {
            continue;
        }
        if path.starts_with(root.join("opt/bin")) || path.starts_with(root.join("usr/bin")) {
            continue; // programs, which know how a key begins
        }
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        if secrets().iter().any(|secret| text.contains(secret)) || text.contains("PRIVATE KEY") {
            let inside = format!("/{}", path.strip_prefix(root).unwrap().display());
            found.push((inside, metadata.permissions().mode() & 0o777));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_anywhere_it_need_not_be() {
    let node = Node::new(api_options()).await;
    let mut document = node.bootstrap();
    document["identity"]["servicePrincipalID"] = json!("principal");
    document["identity"]["servicePrincipalSecret"] = json!(PRINCIPAL_SECRET);
    node.hand_over(document.to_string().as_bytes());
    let mut said = String::new();
    for arguments in [
        &["decode"][..],
        &["plan"],
        &["plan", "--dry-run"],
        &["plan", "--output", "json"],
        &["boot"],
        &["status"],
        &["wait"],
        &["bundle"],
    ] {
        let verbose = node.agent_with(arguments, &[("NAP_LOG", "trace")]).await;
        assert_eq!(verbose.status.code(), Some(0), "{arguments:?} {}", text(&verbose));
        said += &text(&verbose);
    }
    for secret in secrets() {
        assert!(!said.contains(&secret), "a command printed {secret}");
    }
    let bundle = said.lines().find(|line| line.ends_with("-asked.tar.gz")).expect("bundle says where it is");
    let mut unpacked = Vec::new();
    let packed = std::fs::File::open(node.path(bundle)).unwrap();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut unpacked).unwrap();
    let unpacked = String::from_utf8_lossy(&unpacked);
    assert!(unpacked.contains("provision.json"), "{unpacked}");
    for secret in secrets() {
        assert!(!unpacked.contains(&secret), "a bundle holds {secret}");
    }
    for (path, mode) in holders(node.root.directory()) {
        let is_allowed = HOLDERS.contains(&path.as_str()) || path.starts_with("/var/lib/kubelet/pki/kubelet-client-");
        assert!(is_allowed, "{path} holds a secret");
        assert!(mode == 0o600 || path == "/var/lib/waagent/ovf-env.xml", "{path} is {mode:o}");
    }
    let (_, token_secret) = TOKEN.split_once('.').unwrap();
    assert!(!node.root.read("/var/lib/nap-agent/config.json").contains(token_secret), "the token has done its work");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_boot_says_nothing_secret_either() {
    let node = Node::new(api_options()).await;
    let mut document = node.bootstrap();
    document["identity"]["bootstrapToken"] = json!("zzzzzz.secretsecretsecr");
    document["node"]["kubeletConfig"]["noSuchField"] = json!(1);
    node.hand_over(document.to_string().as_bytes());
    let boot = node.agent_with(&["boot"], &[("NAP_LOG", "trace")]).await;
    assert_eq!(boot.status.code(), Some(51));
    let all = text(&boot)
        + &node.report().to_string()
        + &node.root.read("/dev/console")
        + &node.root.read("/var/lib/nap-agent/journal.jsonl");
    assert!(!all.contains("secretsecretsecr"), "{all}");
}
