//! A node below a scratch root with everything around it: pretend systemd, kubelet, containerd, IMDS and API server.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use pretend_azure::{ANY_PORT, ApiOptions, ApiServer, BootstrapToken, Imds, Instance, OvfDocument};
use pretend_node::systemd::{PretendSystemd, Runner};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{ScratchRoot, binary};

/// The token that the pretend API server accepts.
pub const TOKEN: &str = "abcdef.0123456789abcdef";

/// The node's name.
pub const NAME: &str = "aks-default-1";

/// Longest run of one agent command.
const LIMIT: Duration = Duration::from_secs(120);

/// The node and its world.
pub struct Node {
    /// Its root.
    pub root: ScratchRoot,
    /// Its systemd; taken away by a reboot.
    pub systemd: Option<PretendSystemd>,
    /// Its IMDS.
    pub imds: Imds,
    /// Its API server.
    pub api: ApiServer,
    healthz_port: u16,
}

/// API server options with our token.
pub fn api_options() -> ApiOptions {
    let token = BootstrapToken::try_from(TOKEN).expect("a token");
    ApiOptions { bootstrap_tokens: vec![token], ..ApiOptions::default() }
}

impl Node {
    /// A node whose API server has these options.
    pub async fn new(options: ApiOptions) -> Self {
        Self::below(ScratchRoot::new(NAME), options).await
    }

    /// The same on a real disk, where syncing costs something.
    pub async fn new_on_disk(options: ApiOptions) -> Self {
        Self::below(ScratchRoot::on_disk(NAME), options).await
    }

    async fn below(root: ScratchRoot, options: ApiOptions) -> Self {
        root.install_programs();
        let instance = Instance { name: NAME.to_owned(), ..Instance::default() };
        let imds = Imds::start(ANY_PORT, instance).await.expect("IMDS listens");
        let api = ApiServer::start(options).await.expect("the API server listens");
        let systemd = PretendSystemd::start(root.directory(), Runner::Processes).expect("systemd starts");
        Self { root, systemd: Some(systemd), imds, api, healthz_port: free_port() }
    }

    /// The NodeBootstrap that a provisioner would send.
    pub fn bootstrap(&self) -> Value {
        json!({
            "apiVersion": "nap-agent/v1",
            "kind": "NodeBootstrap",
            "cluster": {"apiServer": self.api.url(), "caCertificate": self.api.ca_pem(), "kubernetesVersion": "1.36.2"},
            "identity": {"bootstrapToken": TOKEN},
            "network": {"mode": "none"},
            "node": {
                "labels": {"karpenter.sh/nodepool": "default"},
                "taints": ["dedicated=test:NoSchedule"],
                "kubeletConfig": {"healthzPort": self.healthz_port},
            },
            // A cloud that nobody knows: a boot of the tests looks for nothing outside this machine.
            "cloud": {"environment": "NapTestCloud", "subscriptionID": "s", "resourceGroup": "MC_Test", "location": "westeurope"},
            "containerd": {"sandboxImage": "registry.test.example/pause:1"},
            "boot": {"budgetSeconds": 60, "apiServerSeconds": 2, "unitStartSeconds": 20, "kubeletHealthySeconds": 20, "registrationSeconds": 20},
            "nodeClass": {"linuxOSConfig": {"sysctls": {"vmSwappiness": 10}}},
        })
    }

    /// Hands over a custom data as cloud-init leaves it: in its copy of the provisioning document.
    pub fn hand_over(&self, custom_data: &[u8]) {
        let document = OvfDocument {
            host_name: NAME.to_owned(),
            custom_data: Some(custom_data.to_vec()),
            ..OvfDocument::default()
        };
        self.root.write("/var/lib/waagent/ovf-env.xml", &document.to_xml());
    }

    /// A condition of the Node, as the API server has it.
    pub fn condition(&self, kind: &str) -> Option<Value> {
        let node = serde_json::to_value(self.api.nodes().first()?).expect("a Node is JSON");
        let conditions = node["status"]["conditions"].as_array()?;
        conditions.iter().find(|condition| condition["type"] == kind).cloned()
    }

    /// Runs the agent.
    pub async fn agent(&self, arguments: &[&str]) -> Output {
        self.agent_with(arguments, &[]).await
    }

    /// Runs the agent with more environment.
    pub async fn agent_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = self.command(arguments);
        command.envs(environment.iter().copied());
        tokio::time::timeout(LIMIT, command.output()).await.expect("the agent ends").expect("the agent starts")
    }

    /// The agent's command, for tests that keep it running.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("nap-agent"));
        command
            .arg("--root")
            .arg(self.root.directory())
            .args(["--imds", &self.imds.url()])
            .args(arguments)
            .env_remove("RUST_BACKTRACE")
            .kill_on_drop(true);
        command
    }

    /// `provision.json`.
    pub fn report(&self) -> Value {
        serde_json::from_str(&self.root.read("/var/log/azure/aks/provision.json")).expect("the report is JSON")
    }

    /// The agent's journal of the machine's boot with this number: step and event.
    pub fn journal(&self, boot: u32) -> Vec<(String, String)> {
        let text = self.root.read("/var/lib/nap-agent/journal.jsonl");
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("the journal is JSON lines"));
        let of_boot =
            lines.filter(|line| line["bootId"].as_str().is_some_and(|id| id.ends_with(&format!("{boot:012}"))));
        of_boot.map(|line| (text_of(&line["step"]), text_of(&line["event"]))).collect()
    }

    /// Power off, power on.
    pub fn reboot(&mut self, count: u32) {
        drop(self.systemd.take());
        self.root.machine_starts(count);
        self.systemd = Some(PretendSystemd::start(self.root.directory(), Runner::Processes).expect("systemd starts"));
    }

    /// A path below the root.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.path(path)
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A port of loopback that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}

/// What a command printed, for assertions.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
