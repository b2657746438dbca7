//! The pretend Azure around a VM, and the custom data that its provisioner sends.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nap_vm::{Forward, GUEST_ADDRESS, GUEST_MAC, Overlay, ProvisioningDisc, VmOptions};
use pretend_azure::{
    ANY_PORT, ApiOptions, ApiServer, BootstrapToken, Imds, Instance, Interface, OvfDocument, ScheduledEvent, Wireserver,
};
use serde_json::Value;
use tokio::runtime::Runtime;

/// The VM's id: DMI's product UUID and IMDS's vmId.
pub(crate) const VM_ID: &str = "12345678-1234-1234-1234-123456789abc";
/// The VM's and the node's name.
pub(crate) const NODE: &str = "aks-blue-x7k2p";
/// What IMDS's resource id makes of it.
pub(crate) const PROVIDER_ID: &str = "azure:///subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/mc_nap-vm/providers/Microsoft.Compute/virtualMachines/aks-blue-x7k2p";
/// The secret half of the bootstrap token.
pub(crate) const TOKEN_SECRET: &str = "q7w2e9r4t6y1u8i3";
/// The secret of the cluster's service principal.
pub(crate) const CLIENT_SECRET: &str = "nap-vm-Seeded~Client.Secret-51f0";

/// Of the pretend API server and kubelet.
const KUBERNETES: &str = "1.36.2";
/// The public half of the bootstrap token.
pub(crate) const TOKEN_ID: &str = "napvm1";
/// The API server's address as the guest sees it: it must lie in the guest's network (see `nap_vm::qemu`).
pub(crate) const API_SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(168, 61, 0, 10), 443);

/// Its name, which no DNS server knows.
pub(crate) const API_SERVER_NAME: &str = "api.nap-vm.test";

/// Every service outside the VM, each on a free port of the loopback interface.
pub(crate) struct Azure {
    imds: Imds,
    wireserver: Wireserver,
    api: ApiServer,
    _runtime: Runtime,
}

impl Azure {
    /// Starts them.
    pub(crate) fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let (imds, wireserver, api) = runtime.block_on(async {
            let imds = Imds::start(ANY_PORT, instance()).await.unwrap();
            let wireserver = Wireserver::start(ANY_PORT).await.unwrap();
            (imds, wireserver, ApiServer::start(api_options()).await.unwrap())
        });
        Self { imds, wireserver, api, _runtime: runtime }
    }

    /// The ways out of the guest.
    pub(crate) fn forwards(&self) -> Vec<Forward> {
        self.forwards_to(self.api.address())
    }

    /// The ways out of the guest, with another API server.
    pub(crate) fn forwards_to(&self, api_server: SocketAddr) -> Vec<Forward> {
        vec![
            Forward::imds(self.imds.address()),
            Forward::wireserver(self.wireserver.address()),
            Forward { guest: API_SERVER, host: api_server },
        ]
    }

    /// A VM of this Azure with a bootstrap as custom data.
    pub(crate) fn vm(&self, name: &str, overlay: Overlay, bootstrap: &str) -> VmOptions {
        let mut options = VmOptions::new(name, VM_ID);
        options.overlay = overlay;
        options.disc = Some(self.disc(Some(custom_data(bootstrap))));
        options.forwards = self.forwards();
        options
    }

    /// The disc that Azure attaches to the VM.
    pub(crate) fn disc(&self, custom_data: Option<Vec<u8>>) -> ProvisioningDisc {
        let (host_name, user_name) = (NODE.to_owned(), "azureuser".to_owned());
        let document = OvfDocument { host_name, user_name, custom_data, ..OvfDocument::default() };
        ProvisioningDisc { ovf: document.to_xml() }
    }

    /// The NodeBootstrap of the node, with the pretend API server.
    pub(crate) fn bootstrap(&self) -> String {
        self.bootstrap_with("")
    }

    /// The same with more YAML behind it.
    pub(crate) fn bootstrap_with(&self, more: &str) -> String {
        bootstrap(&self.api.ca_pem(), KUBERNETES, more)
    }

    /// The Node as the API server has it, if it has one.
    pub(crate) fn node(&self) -> Option<Value> {
        let nodes = self.api.nodes();
        nodes.iter().map(|node| serde_json::to_value(node).unwrap()).find(|node| node["metadata"]["name"] == NODE)
    }

    /// IMDS announces an event to the VM.
    pub(crate) fn schedule(&self, event_id: &str, event_type: &str) {
        self.imds.schedule(ScheduledEvent {
            event_id: event_id.to_owned(),
            event_type: event_type.to_owned(),
            resources: vec![NODE.to_owned()],
            not_before: "Mon, 19 Sep 2050 18:29:47 GMT".to_owned(),
            description: String::new(),
            event_source: "Platform".to_owned(),
            duration_in_seconds: -1,
        });
    }

    /// The event is over.
    pub(crate) fn complete(&self, event_id: &str) {
        self.imds.complete_event(event_id);
    }

    /// The health reports that the host got from the guest.
    pub(crate) fn health_reports(&self) -> Vec<pretend_azure::HealthReport> {
        self.wireserver.health_reports()
    }
}

/// A NodeBootstrap of the node; `more` is YAML to append.
pub(crate) fn bootstrap(ca_certificate: &str, kubernetes_version: &str, more: &str) -> String {
    let ca_certificate = STANDARD.encode(ca_certificate);
    format!(
        "apiVersion: nap-agent/v1
kind: NodeBootstrap
cluster:
  apiServer: https://{API_SERVER}
  caCertificate: {ca_certificate}
  kubernetesVersion: {kubernetes_version}
identity:
  bootstrapToken: {TOKEN_ID}.{TOKEN_SECRET}
  servicePrincipalID: 6d4f9b1e-0001-4a9e-9c36-5d9c2e7f3b10
  servicePrincipalSecret: {CLIENT_SECRET}
network:
  mode: none
node:
  name: {NODE}
  labels:
    nap-vm.test/pool: blue
  startupTaints: [\"nap-vm.test/starting:NoExecute\"]
cloud:
  subscriptionID: 0b1f6471-1bf0-4dda-aec3-cb9272f09590
  tenantID: 72f988bf-0000-41af-91ab-2d7cd011db47
  resourceGroup: mc_nap-vm
  location: westeurope
{more}"
    )
}

/// A MIME multipart as provisioners send it: the bootstrap, and a cloud-config of theirs beside it. It is in base64 on the disc.
pub(crate) fn custom_data(bootstrap: &str) -> Vec<u8> {
    format!(
        "Content-Type: multipart/mixed; boundary=\"nap-vm-boundary\"\nMIME-Version: 1.0\n\n\
         --nap-vm-boundary\nContent-Type: application/vnd.nap-agent.node-bootstrap+yaml\nMIME-Version: 1.0\n\n\
         {bootstrap}\n\
         --nap-vm-boundary\nContent-Type: text/cloud-config\nMIME-Version: 1.0\n\n\
         #cloud-config\nruncmd:\n- [touch, /run/nap-vm-cloud-config-ran]\n\
         --nap-vm-boundary--\n"
    )
    .into_bytes()
}

fn api_options() -> ApiOptions {
    let token = BootstrapToken::try_from(format!("{TOKEN_ID}.{TOKEN_SECRET}").as_str()).unwrap();
    ApiOptions {
        names: vec![API_SERVER.ip().to_string(), API_SERVER_NAME.to_owned()],
        bootstrap_tokens: vec![token],
        kubernetes_version: KUBERNETES.to_owned(),
        ..ApiOptions::default()
    }
}

fn instance() -> Instance {
    let mac_address = GUEST_MAC.replace(':', "").to_uppercase();
    let subnet = ("168.61.0.0".to_owned(), 24);
    Instance {
        name: NODE.to_owned(),
        vm_id: VM_ID.to_owned(),
        location: "westeurope".to_owned(),
        subscription_id: "0b1f6471-1bf0-4dda-aec3-cb9272f09590".to_owned(),
        resource_group: "mc_nap-vm".to_owned(),
        interfaces: vec![Interface { mac_address, private_ipv4: vec![GUEST_ADDRESS.to_string()], subnet }],
        ..Instance::default()
    }
}
