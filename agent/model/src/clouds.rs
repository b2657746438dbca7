//! The Azure clouds, one row each: the only place in the program that knows a public host name.
//!
//! A cloud that has no row here is described by the configuration itself (`cloud.environmentDocument`, `registries`), and nothing of
//! the public cloud is assumed for it.

/// A cloud.
#[derive(Debug, PartialEq, Eq)]
pub struct CloudRow {
    /// Its name in azure.json. Source: github.com/Azure/go-autorest/autorest/azure, `Environment`.
    pub name: &'static str,
    /// Regions whose names start so are in it. Source: AgentBaker `GetCloudTargetEnv`.
    regions: &'static [&'static str],
    /// Where Kubernetes' and AKS' own images are.
    pub registry: &'static str,
    /// What the names of its users' own registries end with.
    pub container_registries: &'static str,
    /// Registries that have another name now: the old one, the new one. Source: AgentBaker, `ensureContainerd`.
    pub moved_registries: &'static [(&'static str, &'static str)],
}

/// The rows; the public cloud is last, because every region that no other row claims is in it.
pub const CLOUDS: &[CloudRow] = &[
    CloudRow {
        name: "AzureChinaCloud",
        regions: &["china"],
        registry: "mcr.azure.cn",
        container_registries: ".azurecr.cn",
        moved_registries: &[("mcr.azk8s.cn", "mcr.azure.cn")],
    },
    CloudRow {
        name: "AzureGermanCloud",
        regions: &["germanynortheast", "germanycentral"],
        registry: "mcr.microsoft.com",
        container_registries: ".azurecr.de",
        moved_registries: &[],
    },
    CloudRow {
        name: "AzureUSGovernmentCloud",
        regions: &["usgov", "usdod"],
        registry: "mcr.microsoft.com",
        container_registries: ".azurecr.us",
        moved_registries: &[],
    },
    CloudRow {
        name: "AzurePublicCloud",
        regions: &[""],
        registry: "mcr.microsoft.com",
        container_registries: ".azurecr.io",
        moved_registries: &[],
    },
];

/// What azure.json calls a cloud that is described by a document. Source: AgentBaker, `TARGET_CLOUD`.
pub const CUSTOM_CLOUD: &str = "AzureStackCloud";

/// The pause image of every pod, below its registry.
const PAUSE_IMAGE: &str = "oss/kubernetes/pause:3.6";

/// The contract of the health document; a name, never fetched.
pub const HEALTH_API_VERSION: &str = "health.node.azure.com/v1";

/// The dialect of our JSON Schema; a name, never fetched.
pub const JSON_SCHEMA_DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The namespace of Azure's part of an OVF environment; a name, never fetched. Source: cloud-init, `sources/helpers/azure.py`.
pub const OVF_NAMESPACE: &str = "http://schemas.microsoft.com/windowsazure";

/// The cloud of a region.
pub fn of_region(region: &str) -> &'static CloudRow {
    let region = region.to_ascii_lowercase();
    let row = CLOUDS.iter().find(|row| row.regions.iter().any(|prefix| region.starts_with(prefix)));
    row.expect("the last row claims every region")
}

/// The cloud with this name, compared without case; nothing for one that we do not know.
pub fn named(name: &str) -> Option<&'static CloudRow> {
    CLOUDS.iter().find(|row| row.name.eq_ignore_ascii_case(name))
}

/// The pause image in a registry.
pub fn pause_image(registry: &str) -> String {
    format!("{registry}/{PAUSE_IMAGE}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_in_the_cloud_that_claims_it() {
        for (region, name) in [
            ("chinaeast2", "AzureChinaCloud"),
            ("USGovVirginia", "AzureUSGovernmentCloud"),
            ("usdodeast", "AzureUSGovernmentCloud"),
            ("germanycentral", "AzureGermanCloud"),
            ("germanywestcentral", "AzurePublicCloud"),
            ("westeurope", "AzurePublicCloud"),
            ("", "AzurePublicCloud"),
        ] {
            assert_eq!(of_region(region).name, name, "{region}");
        }
        assert_eq!(named("azurechinacloud"), Some(&CLOUDS[0]));
        assert_eq!(named(CUSTOM_CLOUD), None);
    }

    /// Host names elsewhere would be contacts that nobody can redirect.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test that reads sources")]
    fn no_other_file_of_the_program_names_a_public_host() {
        let agent = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut found = Vec::new();
        let mut directories = vec![agent.join("model/src"), agent.join("host/src"), agent.join("daemon/src")];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    directories.push(path);
                } else if !path.ends_with("model/src/clouds.rs") && !path.ends_with("tests.rs") {
                    let source = std::fs::read_to_string(&path).unwrap();
                    found.extend(public_hosts(&source).iter().map(|line| format!("{}: {line}", path.display())));
                }
            }
        }
        assert_eq!(found, [""; 0], "move these into clouds.rs");
    }

    /// Lines of code (comments, documentation and tests apart) with a name below a public domain.
    fn public_hosts(source: &str) -> Vec<String> {
        const HOSTS: [&str; 9] = [
            "microsoft.com",
            "azure.com",
            "azure.cn",
            "azk8s.",
            "windows.net",
            "azurecr.io",
            "docker.io",
            "k8s.io",
            "https://",
        ];
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        let names_host = |line: &&str| {
            // Labels and API groups have domains that nobody resolves; a scheme before a variable names no host.
            let line = [
                "kubernetes.azure.com/",
                "karpenter.azure.com/",
                "kubelet.config.k8s.io/",
                "credentialprovider.kubelet.k8s.io/",
                "https://{",
                "https://[",
                "below kubernetes.io and k8s.io",
                "is_below(\"k8s.io\")",
                // The name of a tenant of containerd.
                "KUBERNETES: &str = \"k8s.io\"",
            ]
            .iter()
            .fold((*line).to_owned(), |line, name| line.replace(name, ""));
            let is_text = line.starts_with("//") || line.contains("such as") || line.contains("strip_prefix");
            !is_text && HOSTS.iter().any(|host| line.contains(host))
        };
        code.lines().map(str::trim).filter(names_host).map(str::to_owned).collect()
    }
}
