//! What a kubelet is told: KubeletConfiguration, read strictly, with the flags over it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use pretend_kubelet::Root;
use serde_json::{Value, json};

use crate::flags::Flags;
use crate::schema::{KUBELET_CONFIGURATION, duration, faults};

/// What this kubelet uses of its configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// `None` when it is switched off by port 0.
    pub(crate) healthz: Option<SocketAddr>,
    pub(crate) protect_kernel_defaults: bool,
    pub(crate) register_node: bool,
    pub(crate) taints: Vec<Value>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) max_pods: i64,
    pub(crate) provider_id: Option<String>,
    pub(crate) status_every: Duration,
    pub(crate) lease_seconds: i64,
    pub(crate) runtime_socket: String,
}

/// The Linux settings that `protectKernelDefaults` demands.
/// Source: pkg/util/sysctl in Kubernetes.
const KERNEL: &[(&str, &str)] = &[
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

impl Config {
    /// Reads the file that `--config` names, and looks whether the files it names are there.
    pub(crate) fn load(root: &Root, flags: &Flags, minor: u32) -> anyhow::Result<Self> {
        let value = match flags.get("config") {
            None => json!({}),
            Some(path) => {
                let fault = || format!("failed to load kubelet config file, path: {path}");
                let text = std::fs::read_to_string(root.at(path)).with_context(fault)?;
                decode(&text, minor).with_context(fault)?
            }
        };
        if let Some(path) = value["authentication"]["x509"]["clientCAFile"].as_str().filter(|path| !path.is_empty()) {
            std::fs::read(root.at(path)).with_context(|| format!("unable to load client CA file {path}"))?;
        }
        for field in ["tlsCertFile", "tlsPrivateKeyFile"] {
            if let Some(path) = value[field].as_str().filter(|path| !path.is_empty()) {
                std::fs::read(root.at(path)).with_context(|| format!("unable to load {field} {path}"))?;
            }
        }
        check_credential_provider(root, flags)?;
        Self::new(&value, flags)
    }

    fn new(value: &Value, flags: &Flags) -> anyhow::Result<Self> {
        let number = |field: &str, default: i64| value[field].as_i64().unwrap_or(default);
        let text = |field: &str| value[field].as_str().filter(|text| !text.is_empty());
        let port = u16::try_from(number("healthzPort", 10248)).context("invalid configuration: healthzPort")?;
        let address: IpAddr = text("healthzBindAddress")
            .unwrap_or("127.0.0.1")
            .parse()
            .context("invalid configuration: healthzBindAddress")?;
        let endpoint = text("containerRuntimeEndpoint").unwrap_or("unix:///run/containerd/containerd.sock");
        let runtime_socket = endpoint.strip_prefix("unix://").context("unsupported container runtime endpoint")?;
        let mut taints = value["registerWithTaints"].as_array().cloned().unwrap_or_default();
        if flags.get("cloud-provider") == Some("external") {
            let key = "node.cloudprovider.kubernetes.io/uninitialized";
            taints.push(json!({"key": key, "value": "true", "effect": "NoSchedule"}));
        }
        let max_pods = flags.get("max-pods").and_then(|pods| pods.parse().ok());
        let status_every = text("nodeStatusUpdateFrequency").and_then(duration).filter(|every| !every.is_zero());
        Ok(Self {
            healthz: (port > 0).then(|| SocketAddr::new(address, port)),
            protect_kernel_defaults: value["protectKernelDefaults"] == true,
            register_node: flags.switch("register-node").or(value["registerNode"].as_bool()).unwrap_or(true),
            taints,
            labels: flags.labels()?,
            max_pods: max_pods.unwrap_or_else(|| number("maxPods", 110)),
            provider_id: flags.get("provider-id").or(text("providerID")).map(str::to_owned),
            status_every: status_every.unwrap_or(Duration::from_secs(10)),
            lease_seconds: number("nodeLeaseDurationSeconds", 40),
            runtime_socket: runtime_socket.to_owned(),
        })
    }
}

fn decode(text: &str, minor: u32) -> anyhow::Result<Value> {
    let value: Value = serde_json::from_str(text).context("couldn't get version/kind; json parse error")?;
    let (kind, version) = (&value["kind"], &value["apiVersion"]);
    if kind != "KubeletConfiguration" || version != "kubelet.config.k8s.io/v1beta1" {
        bail!(
            "no kind {kind} is registered for version {version} in scheme \"pkg/kubelet/apis/config/scheme/scheme.go\""
        );
    }
    let mut found = Vec::new();
    faults("", &value, KUBELET_CONFIGURATION, minor, &mut found);
    ensure!(found.is_empty(), "strict decoding error: {}", found.join(", "));
    let gates = &value["featureGates"];
    for gate in gates.as_object().into_iter().flat_map(|gates| gates.keys()) {
        ensure!(
            knows_gate(gate, minor),
            "failed to set feature gates from initial flags-based config: unrecognized feature gate: {gate}"
        );
    }
    let is_usual = value["cpuCFSQuotaPeriod"].as_str().is_none_or(|period| period == "100ms");
    ensure!(
        is_usual || minor >= 36 || gates["CustomCPUCFSQuotaPeriod"] == true,
        "invalid configuration: cpuCFSQuotaPeriod requires feature gate CustomCPUCFSQuotaPeriod"
    );
    Ok(value)
}

/// Whether this minor version has the gate; a version newer than the list has what the newest in it has.
fn knows_gate(gate: &str, minor: u32) -> bool {
    let number = |text: &str| text.strip_prefix("1.").and_then(|text| text.parse::<u32>().ok());
    include_str!("../../../../kubernetes/kubelet-gates.txt").lines().any(|line| {
        let mut words = line.split(' ');
        let is_it = words.next() == Some(gate);
        let (first, last) = (words.next().and_then(number), words.next().and_then(number));
        is_it && first.is_some_and(|first| first <= minor) && last.is_some_and(|last| minor.min(37) <= last)
    })
}

fn check_credential_provider(root: &Root, flags: &Flags) -> anyhow::Result<()> {
    let path = "image-credential-provider-config";
    let (config, directory) = match (flags.get(path), flags.get("image-credential-provider-bin-dir")) {
        (None, None) => return Ok(()),
        (Some(config), Some(directory)) => (config, directory),
        _ => bail!(
            "image-credential-provider-config and image-credential-provider-bin-dir are given together or not at all"
        ),
    };
    let text = std::fs::read(root.at(config)).with_context(|| {
        format!("unable to read external registry credential provider configuration from {config:?}")
    })?;
    ensure!(root.at(directory).is_dir(), "plugin binary directory {directory} did not exist");
    let config: Value =
        serde_json::from_slice(&text).context("error decoding the credential provider configuration")?;
    let providers = config["providers"].as_array().filter(|providers| !providers.is_empty());
    for provider in providers.context("at least 1 item in plugins is required")? {
        let name = provider["name"].as_str().context("name is required")?;
        let program = std::fs::metadata(root.at(format!("{directory}/{name}")));
        let can_run = program.is_ok_and(|program| program.is_file() && program.permissions().mode() & 0o111 != 0);
        ensure!(can_run, "plugin binary executable {directory}/{name} did not exist");
        ensure!(provider["matchImages"].as_array().is_some_and(|images| !images.is_empty()), "matchImages is required");
        ensure!(provider["defaultCacheDuration"].is_string(), "defaultCacheDuration is required");
        let tokens = &provider["tokenAttributes"];
        ensure!(tokens.is_null() || tokens["cacheType"].is_string(), "tokenAttributes.cacheType is required");
    }
    Ok(())
}

/// Refuses a kernel that is not set as `protectKernelDefaults` demands.
pub(crate) fn check_kernel(root: &Root) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for (flag, wanted) in KERNEL {
        let path = format!("/proc/sys/{flag}");
        let actual = std::fs::read_to_string(root.at(&path)).with_context(|| format!("open {path}"))?;
        if actual.trim() != *wanted {
            found.push(format!(
                "invalid kernel flag: {flag}, expected value: {wanted}, actual value: {}",
                actual.trim()
            ));
        }
    }
    match found.as_slice() {
        [] => Ok(()),
        [one] => bail!("{one}"),
        several => bail!("[{}]", several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_fields(fields: &str, minor: u32) -> Result<Value, String> {
        let head = r#""kind":"KubeletConfiguration","apiVersion":"kubelet.config.k8s.io/v1beta1""#;
        decode(&format!("{{{head}{fields}}}"), minor).map_err(|error| error.to_string())
    }

    #[test]
    fn unknown_fields_are_refused_by_path() {
        let error = decode_fields(r#","maxPod":5,"authentication":{"x509":{"caFile":"a"}}"#, 36).unwrap_err();
        assert!(error.starts_with("strict decoding error: "), "{error}");
        assert!(error.contains("unknown field \"maxPod\""), "{error}");
        assert!(error.contains("unknown field \"authentication.x509.caFile\""), "{error}");
    }

    #[test]
    fn fields_exist_from_their_version_on() {
        assert!(decode_fields(r#","userNamespaces":{"idsPerPod":65536}"#, 33).is_ok());
        assert!(decode_fields(r#","userNamespaces":{"idsPerPod":65536}"#, 32).is_err());
    }

    #[test]
    fn feature_gates_that_this_version_does_not_have_are_refused() {
        assert!(decode_fields(r#","featureGates":{"AppArmor":true,"NodeSwap":true}"#, 32).is_ok());
        assert!(decode_fields(r#","featureGates":{"AppArmor":true}"#, 33).unwrap_err().contains("gate: AppArmor"));
        assert!(decode_fields(r#","cpuCFSQuotaPeriod":"50ms""#, 35).unwrap_err().contains("requires feature gate"));
        assert!(decode_fields(r#","cpuCFSQuotaPeriod":"50ms""#, 36).is_ok());
    }

    #[test]
    fn values_of_the_wrong_type_are_refused() {
        let wrong = [
            r#","maxPods":"5""#,
            r#","syncFrequency":"10""#,
            r#","featureGates":{"a":"true"}"#,
            r#","clusterDNS":"10.0.0.10""#,
            r#","registerWithTaints":{"key":"a"}"#,
        ];
        for fields in wrong {
            assert!(decode_fields(fields, 36).unwrap_err().contains("cannot unmarshal"), "{fields}");
        }
        assert!(decode("{}", 36).is_err(), "it has no kind");
    }

    #[test]
    fn a_kernel_flag_that_differs_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::scratch(folder.path());
        for (flag, wanted) in KERNEL {
            let path = root.at(format!("/proc/sys/{flag}"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{wanted}\n")).unwrap();
        }
        assert!(check_kernel(&root).is_ok());
        std::fs::write(root.at("/proc/sys/kernel/panic"), "0\n").unwrap();
        let error = check_kernel(&root).unwrap_err().to_string();
        assert_eq!(error, "invalid kernel flag: kernel/panic, expected value: 10, actual value: 0");
    }
}
