//! The Node object and its Lease: registered once, then kept alive.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use pretend_kubelet::{Root, log, notify};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::client::Client;
use crate::config::Config;

const NODES: &str = "/api/v1/nodes";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// How often the node's state is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const RENEW_EVERY: Duration = Duration::from_secs(10);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Everything that is known about this node.
pub(crate) struct Node<'a> {
    pub(crate) root: &'a Root,
    pub(crate) config: &'a Config,
    pub(crate) client: Client,
    pub(crate) name: String,
    pub(crate) address: Option<String>,
    pub(crate) version: &'a str,
}

impl Node<'_> {
    /// Registers the node, tells the service manager, and keeps status and Lease fresh.
    pub(crate) async fn live(&self) -> anyhow::Result<Infallible> {
        self.register().await?;
        let (mut lease, mut known, mut changed) = (None, None, now());
        let (mut status_due, mut lease_due) = (Instant::now(), Instant::now());
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let trouble = self.trouble().await;
            if known.as_ref() != Some(&trouble) {
                (known, changed, status_due) = (Some(trouble.clone()), now(), Instant::now());
            }
            if Instant::now() >= status_due {
                let sent = self.send_status(trouble.as_deref(), &changed).await;
                status_due = next(sent, self.config.status_every, "Error updating node status, will retry");
            }
            if Instant::now() >= lease_due {
                lease_due =
                    next(self.renew(&mut lease).await, RENEW_EVERY, "Failed to ensure lease exists, will retry");
            }
        }
    }

    /// Tries until the node is registered. Ready is told after the first attempt whatever came of it: the real kubelet
    /// does not wait for its registration either.
    async fn register(&self) -> anyhow::Result<()> {
        let mut pause = Duration::from_millis(200);
        let mut outcome = self.try_register().await;
        notify("READY=1").context("cannot tell the service manager")?;
        while let Err(error) = outcome {
            log(&format!("Unable to register node with API server: {error:#}"));
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(7));
            outcome = self.try_register().await;
        }
        Ok(())
    }

    async fn try_register(&self) -> anyhow::Result<()> {
        if !self.config.register_node {
            return Ok(());
        }
        let trouble = self.trouble().await;
        let answer = self.client.post(NODES, &self.object(trouble.as_deref())).await?;
        if answer.status == 409 {
            self.client.get(&format!("{NODES}/{}", self.name)).await?.success()?;
            log("Node was previously registered");
            return Ok(());
        }
        answer.success()?;
        log("Successfully registered node");
        Ok(())
    }

    /// Why the node is not ready, if it is not.
    async fn trouble(&self) -> Option<String> {
        if let Err(error) = UnixStream::connect(self.root.at(&self.config.runtime_socket)).await {
            return Some(format!("container runtime is down: {error}"));
        }
        let entries = std::fs::read_dir(self.root.at("/etc/cni/net.d")).into_iter().flatten().flatten();
        let mut endings = entries.filter_map(|entry| entry.path().extension().map(|ending| ending.to_owned()));
        let configured = endings.any(|ending| ending == "conflist" || ending == "conf");
        (!configured).then(|| "container runtime network not ready: cni plugin not initialized".to_owned())
    }

    fn object(&self, trouble: Option<&str>) -> Value {
        let mut labels = json!({
            "kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": arch(),
            "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": arch(),
        });
        for (label, value) in &self.config.labels {
            labels[label] = json!(value);
        }
        let mut annotations = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
        if let Some(address) = &self.address {
            annotations["alpha.kubernetes.io/provided-node-ip"] = json!(address);
        }
        let mut spec = json!({});
        if !self.config.taints.is_empty() {
            spec["taints"] = json!(self.config.taints);
        }
        if let Some(provider_id) = &self.config.provider_id {
            spec["providerID"] = json!(provider_id);
        }
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": self.name, "labels": labels, "annotations": annotations},
            "spec": spec, "status": self.status(trouble, &now()),
        })
    }

    async fn send_status(&self, trouble: Option<&str>, changed: &str) -> anyhow::Result<()> {
        let patch = json!({"status": self.status(trouble, changed)});
        self.client.patch(&format!("{NODES}/{}/status", self.name), &patch).await?.success().map(drop)
    }

    fn status(&self, trouble: Option<&str>, changed: &str) -> Value {
        let capacity = json!({"cpu": cpus(), "memory": memory(), "pods": self.config.max_pods.to_string()});
        let mut addresses = vec![json!({"type": "Hostname", "address": self.name})];
        if let Some(address) = &self.address {
            addresses.insert(0, json!({"type": "InternalIP", "address": address}));
        }
        json!({
            "capacity": capacity, "allocatable": capacity, "addresses": addresses,
            "conditions": [ready_condition(trouble, changed)], "nodeInfo": self.node_info(),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        })
    }

    fn node_info(&self) -> Value {
        let read = |path: &str| std::fs::read_to_string(self.root.at(path)).unwrap_or_default().trim().to_owned();
        let version = format!("v{}", self.version);
        json!({
            "architecture": arch(), "operatingSystem": "linux", "osImage": "Pretend Linux",
            "bootID": read("/proc/sys/kernel/random/boot_id"), "machineID": read("/etc/machine-id"), "systemUUID": "",
            "kernelVersion": read("/proc/sys/kernel/osrelease"), "containerRuntimeVersion": "containerd://1.7.24",
            "kubeletVersion": version, "kubeProxyVersion": version,
        })
    }

    async fn renew(&self, held: &mut Option<Value>) -> anyhow::Result<()> {
        let path = format!("{LEASES}/{}", self.name);
        let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
        let spec = json!({
            "holderIdentity": self.name, "leaseDurationSeconds": self.config.lease_seconds, "renewTime": time,
        });
        let answer = match held.take() {
            Some(mut lease) => {
                lease["spec"] = spec.clone();
                self.client.put(&path, &lease).await?
            }
            None => {
                let lease = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec,
                    "metadata": {"name": self.name, "namespace": "kube-node-lease"},
                });
                self.client.post(LEASES, &lease).await?
            }
        };
        if answer.status != 409 {
            *held = Some(answer.success()?);
            return Ok(());
        }
        // Somebody else wrote it, or it is left from before our start: renew that version.
        let mut lease = self.client.get(&path).await?.success()?;
        lease["spec"] = spec;
        *held = Some(self.client.put(&path, &lease).await?.success()?);
        Ok(())
    }
}

fn next(outcome: anyhow::Result<()>, every: Duration, failure: &str) -> Instant {
    match outcome {
        Ok(()) => Instant::now() + every,
        Err(error) => {
            log(&format!("{failure}: {error:#}"));
            Instant::now() + RETRY_AFTER
        }
    }
}

fn ready_condition(trouble: Option<&str>, changed: &str) -> Value {
    let (status, reason, message) = match trouble {
        Some(trouble) => ("False", "KubeletNotReady", trouble),
        None => ("True", "KubeletReady", "kubelet is posting ready status"),
    };
    json!({
        "type": "Ready", "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now(), "lastTransitionTime": changed,
    })
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn cpus() -> String {
    std::thread::available_parallelism().map_or(1, usize::from).to_string()
}

/// The machine's memory; a scratch root has none of its own.
fn memory() -> String {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    format!("{}Ki", total.unwrap_or("4194304"))
}
