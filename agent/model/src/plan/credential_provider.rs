//! The program by which kubelet gets credentials for Azure container registries, and the file that tells kubelet of it.
//!
//! kubelet exits when it is told of a program that is not there, so it is told only of one that was seen to run. Without it the node is a
//! node all the same: pulls of images that everybody may have, and those with secrets of their own, go on.
//!
//! The program is asked for registries of the node's own cloud only: a credential of one cloud means nothing in another, and a name that
//! nobody in this cloud can have is a name that somebody else may. A provisioner's flags for it are replaced by ours; a user who names
//! another configuration in a NodeBootstrap has it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::resource::{Step, public_file};
use crate::clouds;
use crate::config::carrier::Format;
use crate::config::{NodeConfig, ServiceAccountPulls};
use crate::facts::Facts;
use crate::kubernetes::KubernetesVersion;
use crate::os::CREDENTIAL_PROVIDER;

/// kubelet's flags for the file, and for the directory of the programs that it names.
const FLAGS: [&str; 2] = ["image-credential-provider-config", "image-credential-provider-bin-dir"];

/// What kubelet is told of the program; JSON, which is YAML, too.
pub const CREDENTIAL_PROVIDER_CONFIG: &str = "/var/lib/kubelet/credential-provider-config.yaml";

/// Audience of the tokens by which a pod's service account pulls. Source: AgentBaker, `writeCredentialProviderConfig`.
const AUDIENCE: &str = "api://AKSIdentityBinding";

/// Names the identity that a service account pulls as. Source: the same.
const CLIENT_ID: &str = "kubernetes.azure.com/acr-client-id";

/// Since this minor version kubelet hands service account tokens to a program without a feature gate, and wants to be told how to keep
/// the answers. Source: k8s.io/kubelet/config/v1, `ServiceAccountTokenAttributes`.
const TOKENS_SINCE: u32 = 34;

/// What kubelet is told of the program.
pub(super) struct CredentialProvider {
    config: Option<Value>,
    pub(super) notes: Vec<String>,
}

impl CredentialProvider {
    /// Takes a provisioner's flags for it out of `flags`.
    pub(super) fn new(
        config: &NodeConfig,
        facts: &Facts,
        version: KubernetesVersion,
        flags: &mut BTreeMap<String, String>,
    ) -> Self {
        let nothing = || Self { config: None, notes: Vec::new() };
        let is_given = FLAGS.iter().any(|flag| flags.contains_key(*flag));
        if is_given && config.format == Format::NodeBootstrap {
            return nothing();
        }
        FLAGS.iter().for_each(|flag| _ = flags.remove(*flag));
        let pulls = config.registries.service_account_pulls.as_ref();
        let unavailable = |why: &str| {
            let note =
                format!("CredentialProviderUnavailable: {why}; images of Azure container registries need pull secrets");
            Self { config: None, notes: vec![note] }
        };
        if let Some(why) = &facts.credential_provider_failure {
            return unavailable(why);
        }
        if !facts.present.contains(CREDENTIAL_PROVIDER) {
            let is_wanted = is_given || pulls.is_some();
            return if is_wanted { unavailable(&format!("the image has no {CREDENTIAL_PROVIDER}")) } else { nothing() };
        }
        let images = images(config);
        if images.is_empty() {
            return unavailable(
                "nobody said what the names of this cloud's registries end with (registries.dnsSuffix)",
            );
        }
        let takes_tokens = version.at_least(TOKENS_SINCE);
        let note = format!(
            "registries.serviceAccountPulls left out: kubelet {version} does so since Kubernetes 1.{TOKENS_SINCE}; images are pulled as the node"
        );
        Self {
            config: Some(document(config, images, pulls.filter(|_| takes_tokens))),
            notes: pulls.filter(|_| !takes_tokens).map(|_| note).into_iter().collect(),
        }
    }

    pub(super) fn file(&self) -> Option<Step> {
        let text = format!("{:#}\n", self.config.as_ref()?);
        let why = "kubelet gets credentials for Azure container registries from a program";
        Some(Step::new("kubelet.credential-provider", why, public_file(CREDENTIAL_PROVIDER_CONFIG, text)))
    }

    pub(super) fn flags(&self) -> impl Iterator<Item = (&'static str, String)> {
        let directory = CREDENTIAL_PROVIDER.rsplit_once('/').expect("an absolute path").0;
        let values = [CREDENTIAL_PROVIDER_CONFIG, directory].map(str::to_owned);
        FLAGS.into_iter().zip(values).filter(|_| self.config.is_some())
    }
}

/// Patterns of the images for which it is asked; none where nobody knows the cloud's registries.
fn images(config: &NodeConfig) -> Vec<Value> {
    let cloud = clouds::named(&config.cloud.environment);
    let of_cloud =
        cloud.iter().flat_map(|cloud| ["*", "*.*.geo"].map(|host| format!("{host}{}", cloud.container_registries)));
    let of_user = config.registries.dns_suffix.iter().map(|suffix| format!("*{suffix}"));
    // Its images come from the bootstrap registry, which wants a credential.
    let isolated = cloud.filter(|_| config.registries.bootstrap.is_some()).map(|cloud| cloud.registry.to_owned());
    of_cloud.chain(of_user).chain(isolated).map(Value::String).collect()
}

fn document(config: &NodeConfig, images: Vec<Value>, pulls: Option<&ServiceAccountPulls>) -> Value {
    let mut arguments = vec!["/etc/kubernetes/azure.json".to_owned()];
    if let (Some(registry), Some(cloud)) = (&config.registries.bootstrap, clouds::named(&config.cloud.environment)) {
        let host = registry.split('/').next().unwrap_or(registry);
        arguments.push(format!("--registry-mirror={}:{host}", cloud.registry));
    }
    let mut provider = json!({
        "name": CREDENTIAL_PROVIDER.rsplit('/').next(),
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "matchImages": images,
        "defaultCacheDuration": "10m",
    });
    if let Some(ServiceAccountPulls { local_authority, client_id, tenant_id }) = pulls {
        arguments.push(format!("--ib-sni-name={local_authority}"));
        arguments.extend(client_id.iter().map(|id| format!("--ib-default-client-id={id}")));
        arguments.extend(tenant_id.iter().map(|id| format!("--ib-default-tenant-id={id}")));
        arguments.push(format!("--ib-apiserver-ip={}", config.cluster.api_server.host));
        provider["tokenAttributes"] = json!({
            "serviceAccountTokenAudience": AUDIENCE,
            "cacheType": "ServiceAccount",
            "requireServiceAccount": false,
            "optionalServiceAccountAnnotationKeys": [CLIENT_ID],
        });
    }
    provider["args"] = json!(arguments);
    json!({"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig", "providers": [provider]})
}

/// Whether kubelet would ask a program with this pattern for an image: as many labels of the host, each with `*` for any letters, the same
/// port, and a path that begins so. Source: `URLsMatch`, pkg/credentialprovider of Kubernetes.
pub fn matches_image(pattern: &str, image: &str) -> bool {
    let (pattern, image) = (Place::of(pattern), Place::of(image));
    let labels = [pattern.host.split('.'), image.host.split('.')];
    pattern.port == image.port
        && image.path.starts_with(pattern.path)
        && labels[0].clone().count() == labels[1].clone().count()
        && labels[0].clone().zip(labels[1].clone()).all(|(pattern, label)| matches_label(pattern, label))
}

struct Place<'a> {
    host: &'a str,
    port: Option<&'a str>,
    path: &'a str,
}

impl<'a> Place<'a> {
    fn of(text: &'a str) -> Self {
        let at = text.find('/').unwrap_or(text.len());
        let (host, path) = text.split_at(at);
        let (host, port) = host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port)));
        Self { host, port, path }
    }
}

fn matches_label(pattern: &str, label: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == label };
    let Some(tail) = label.strip_prefix(first) else { return false };
    (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| matches_label(rest, &tail[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::decode;
    use crate::os::Distribution;

    fn config(more: &str) -> NodeConfig {
        let text = include_str!("../../testdata/nothing.yaml").replace("MODE", "none").replace("VERSION", "1.34.2");
        let decoded = decode(format!("{text}{more}").as_bytes()).unwrap();
        assert_eq!(decoded.findings.problems, []);
        decoded.config.unwrap()
    }

    fn facts() -> Facts {
        let mut facts = Distribution::named("ubuntu-24.04").unwrap().typical_facts();
        facts.present.insert(CREDENTIAL_PROVIDER.to_owned());
        facts
    }

    fn provider(config: &NodeConfig, facts: &Facts, version: &str) -> CredentialProvider {
        CredentialProvider::new(config, facts, KubernetesVersion::try_from(version).unwrap(), &mut BTreeMap::new())
    }

    fn of(config: &NodeConfig) -> Value {
        provider(config, &facts(), "1.34.2").config.unwrap()["providers"][0].clone()
    }

    #[test]
    fn patterns_match_as_kubelets() {
        for (pattern, image, wanted) in [
            ("*.azurecr.io", "r.azurecr.io/app:1", true),
            ("*.azurecr.io", "a.b.azurecr.io/app:1", false),
            ("*.*.geo.azurecr.io", "r.westeurope.geo.azurecr.io/app", true),
            ("*.azurecr.io", "r.azurecr.io:5000/app", false),
            ("r.example:5000/team", "r.example:5000/team/app@sha256:00", true),
            ("r.example:5000/team", "r.example:5000/other", false),
            ("a*z.example", "abcz.example/app", true),
            ("a*z.example", "az.example/app", true),
            ("a*z.example", "ay.example/app", false),
            ("*", "app", true),
        ] {
            assert_eq!(matches_image(pattern, image), wanted, "{pattern} {image}");
        }
    }

    #[test]
    fn it_is_asked_for_the_clouds_own_registries() {
        let plain = of(&config("cloud: {location: westeurope}\n"));
        assert_eq!(plain["matchImages"], json!(["*.azurecr.io", "*.*.geo.azurecr.io"]));
        assert_eq!(plain["args"], json!(["/etc/kubernetes/azure.json"]));
        assert_eq!(plain.get("tokenAttributes"), None);
        assert_eq!(of(&config("cloud: {location: usgovvirginia}\n"))["matchImages"][0], "*.azurecr.us");
        let custom = "containerd: {sandboxImage: \"r.example/pause:1\"}\ncloud: {environment: AzureStackCloud, environmentDocument: {a: b}}\n";
        let unknown = provider(&config(custom), &facts(), "1.34.2");
        assert!(unknown.config.is_none() && unknown.notes[0].contains("registries.dnsSuffix"), "{:?}", unknown.notes);
        let known = config(&format!("{custom}registries: {{dnsSuffix: .azurecr.example}}\n"));
        assert_eq!(of(&known)["matchImages"], json!(["*.azurecr.example"]));
    }

    #[test]
    fn in_an_isolated_cluster_it_is_asked_for_the_registry_that_stands_for_the_public_one() {
        let isolated = of(&config("cloud: {location: westeurope}\nregistries: {bootstrap: r.azurecr.io/mcr}\n"));
        assert_eq!(isolated["matchImages"][2], "mcr.microsoft.com");
        assert_eq!(isolated["args"][1], "--registry-mirror=mcr.microsoft.com:r.azurecr.io");
    }

    #[test]
    fn service_accounts_pull_where_kubelet_hands_their_tokens_on() {
        let pulls = config(
            "registries: {serviceAccountPulls: {localAuthority: sni.example, defaultClientID: c, defaultTenantID: t}}\n",
        );
        let provider_of = of(&pulls);
        let wanted = ["--ib-sni-name=sni.example", "--ib-default-client-id=c", "--ib-default-tenant-id=t"];
        assert_eq!(provider_of["args"].as_array().unwrap()[1..4], wanted);
        assert_eq!(provider_of["args"][4], format!("--ib-apiserver-ip={}", pulls.cluster.api_server.host));
        assert_eq!(provider_of["tokenAttributes"]["cacheType"], "ServiceAccount");
        let older = provider(&pulls, &facts(), "1.33.0");
        assert!(older.notes[0].contains("since Kubernetes 1.34"), "{:?}", older.notes);
        assert_eq!(older.config.unwrap()["providers"][0].get("tokenAttributes"), None);
    }

    #[test]
    fn kubelet_is_told_only_of_one_that_runs() {
        let (plain, mut facts) = (config(""), facts());
        facts.credential_provider_failure = Some("it ends with signal 11".to_owned());
        let broken = provider(&plain, &facts, "1.34.2");
        assert!(broken.file().is_none() && broken.flags().next().is_none());
        assert!(broken.notes[0].contains("signal 11"), "{:?}", broken.notes);
        facts.credential_provider_failure = None;
        facts.present.remove(CREDENTIAL_PROVIDER);
        assert_eq!(provider(&plain, &facts, "1.34.2").notes, [""; 0], "nobody asked for it");
        let pulls = config("registries: {serviceAccountPulls: {localAuthority: sni.example}}\n");
        assert!(provider(&pulls, &facts, "1.34.2").notes[0].contains("the image has no"));
    }

    #[test]
    fn a_users_own_configuration_stays_and_a_provisioners_is_ours() {
        let given = || BTreeMap::from(FLAGS.map(|flag| (flag.to_owned(), "/of/somebody".to_owned())));
        let version = KubernetesVersion::try_from("1.34.2").unwrap();
        let (mut users, mut theirs) = (given(), given());
        let mut config = config("");
        assert!(CredentialProvider::new(&config, &facts(), version, &mut users).config.is_none());
        assert_eq!(users, given());
        config.format = Format::AksNodeConfig;
        let ours = CredentialProvider::new(&config, &facts(), version, &mut theirs);
        assert_eq!(theirs, BTreeMap::new());
        let flags: Vec<_> = ours.flags().collect();
        assert_eq!(flags[1], (FLAGS[1], "/var/lib/kubelet/credential-provider".to_owned()));
        assert!(ours.file().is_some());
    }
}
