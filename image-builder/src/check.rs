//! Says whether an image can serve, and exactly what is missing.
//!
//! What every node needs is a table here. What one node class, network and version need is asked of the plan itself, as a node with
//! that image would: what it refuses is missing, and what it notes only because the image lacks something comes along as a note.

use nap_model::config::{NodeConfig, decode};
use nap_model::image::{self, Image};
use nap_model::os::{self, Distribution, OPTIONAL_FILES};
use nap_model::plan::plan;
use nap_model::report::Reason;
use serde_json::{Value, json};
use thiserror::Error;

/// The node that an image is asked for.
#[derive(Debug, Default)]
pub struct Wish {
    /// The AKSNodeClass, whole or only its `spec`, as YAML or JSON.
    pub node_class: Option<String>,
    /// Version of Kubernetes; the image's kubelet's when absent.
    pub kubernetes_version: Option<String>,
    /// Mode of the pod network; overlay when absent.
    pub network: Option<String>,
}

/// What an image is worth for a wish.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// A node with this image would not come up, or not as a node of ours.
    pub missing: Vec<String>,
    /// A node would come up and say this.
    pub notes: Vec<String>,
}

/// Why a wish is none.
#[derive(Debug, Error)]
pub enum WishError {
    /// It is no document.
    #[error("the node class cannot be read: {0}")]
    Unreadable(String),
    /// It has mistakes.
    #[error("the node that is asked for cannot be: {}", .0.join("; "))]
    Mistakes(Vec<String>),
}

/// A certificate's form with nothing in it: no connection is made.
const NO_CA: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1BQT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";

/// Says what an image lacks; `written` is the inventory that is in the image, `found` what is really there.
///
/// # Errors
/// When the wish is none.
pub fn check(
    found: &Image,
    written: Option<&Image>,
    os: &'static Distribution,
    wish: &Wish,
) -> Result<Verdict, WishError> {
    let mut verdict = Verdict { missing: basics(found, os), notes: Vec::new() };
    match written {
        None => verdict.missing.push(format!("{}: run `nap-image-builder bake`", image::INVENTORY)),
        Some(written) if written != found => {
            let text = format!("{}: not what is in the image now; run `nap-image-builder bake`", image::INVENTORY);
            verdict.missing.push(text);
        }
        Some(_) => {}
    }
    let version = match (&wish.kubernetes_version, found.programs.kubelet) {
        (Some(version), _) => version.clone(),
        (None, Some(version)) => version.to_string(),
        // Without a kubelet there is nothing to plan for, and that is in the list already.
        (None, None) => return Ok(verdict),
    };
    ask_the_plan(found, os, &config(wish, &version)?, &mut verdict);
    Ok(verdict)
}

fn basics(found: &Image, os: &Distribution) -> Vec<String> {
    let mut missing = Vec::new();
    let mut lack = |what: &str, why: &str| missing.push(format!("{what}: {why}"));
    let tools = found.tools.clone().unwrap_or_default();
    for (program, why) in [
        (os.kubelet, "there is no node without it"),
        (os.containerd, "there is no node without it"),
        (os.runc, "containerd starts no container without it"),
        ("/usr/sbin/modprobe", "kernel modules are loaded by it"),
    ] {
        if !tools.contains_key(program) {
            lack(program, why);
        }
    }
    // containerd that starts with the machine is started again with its configuration: slower, and not wrong.
    for (unit, must_start, why) in [
        ("nap-boot.service", true, "it makes the machine a node; install the package"),
        ("nap-agent.service", true, "it guards the node; install the package"),
        ("containerd.service", false, "it is started by the boot; install the distribution's package"),
    ] {
        match found.units.as_ref().and_then(|units| units.get(unit)).map(String::as_str) {
            None => lack(unit, why),
            Some("masked") => lack(unit, "it is masked and cannot be started"),
            Some("disabled") if must_start => lack(unit, "it is there and does not start with the machine"),
            Some(_) => {}
        }
    }
    let kernels = found.kernels.clone().unwrap_or_default();
    if kernels.is_empty() {
        lack("/usr/lib/modules", "there is no kernel with modules");
    }
    for (release, modules) in &kernels {
        for module in ["br_netfilter", "nf_conntrack", "overlay"].iter().filter(|module| !modules.contains(**module)) {
            missing.push(format!("kernel module {module}: kernel {release} does not have it"));
        }
    }
    missing
}

fn config(wish: &Wish, version: &str) -> Result<NodeConfig, WishError> {
    let node_class = match &wish.node_class {
        None => json!({}),
        Some(text) => {
            let document: Value =
                serde_saphyr::from_str(text).map_err(|error| WishError::Unreadable(error.to_string()))?;
            document.get("spec").cloned().unwrap_or(document)
        }
    };
    let document = json!({
        "apiVersion": "nap-agent/v1",
        "cluster": {"apiServer": "api.invalid", "caCertificate": NO_CA, "kubernetesVersion": version},
        "identity": {"bootstrapToken": "abcdef.0123456789abcdef"},
        "network": {"mode": wish.network.as_deref().unwrap_or("overlay")},
        "nodeClass": node_class,
    });
    let decoded = decode(document.to_string().as_bytes()).map_err(|error| WishError::Unreadable(error.to_string()))?;
    let problems = decoded.findings.problems.iter().map(ToString::to_string).collect();
    decoded.config.ok_or(WishError::Mistakes(problems))
}

fn ask_the_plan(found: &Image, os: &'static Distribution, config: &NodeConfig, verdict: &mut Verdict) {
    // A program that is not there is in the list by its own name.
    let lacks = image::lacks(found, config, os).into_iter().filter(|lack| lack.reason != Reason::ImageLacksProgram);
    for lack in lacks {
        verdict.missing.push(format!("{}: {}", lack.reason, lack.what));
    }
    // A typical machine with all that an image can have, and the same with what this one has.
    let mut facts = os.typical_facts();
    facts.present = OPTIONAL_FILES.iter().map(|file| (*file).to_owned()).collect();
    facts.programs.kubelet = Some(found.programs.kubelet.unwrap_or(config.cluster.kubernetes_version));
    let with_all = plan(config, &facts).map(|plan| plan.notes).unwrap_or_default();
    facts.present = found.present.clone().unwrap_or_default();
    // What is there and could not be asked is asked by the node.
    let has = |program| found.tools.as_ref().is_some_and(|tools| tools.contains_key(program));
    facts.programs.containerd = found.programs.containerd.or(facts.programs.containerd.filter(|_| has(os.containerd)));
    match plan(config, &facts) {
        Ok(plan) => verdict.notes.extend(plan.notes.into_iter().filter(|note| !with_all.contains(note))),
        Err(_) if !has(os.kubelet) || !has(os.containerd) => {}
        Err(failure) => verdict.missing.push(format!("{}: {}", failure.reason, failure.message)),
    }
    if !has(os::NFT) && !verdict.notes.iter().any(|note| note.contains(os::NFT)) {
        verdict.notes.push(format!("no {}: rules of the packet filter are left out", os::NFT));
    }
}
