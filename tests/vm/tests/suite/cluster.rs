//! A real control plane on this machine's loopback: etcd, kube-apiserver, kube-controller-manager.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

use crate::azure::{API_SERVER, TOKEN_ID, TOKEN_SECRET};

/// For the API server to be ready. 4 s on a quiet machine.
const READY: Duration = Duration::from_secs(120);

/// The programs, as `$NAP_KUBE_BIN` has them; what is missing there is taken from the path.
#[derive(Debug)]
pub(crate) struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// All of them, or which one is missing.
    pub(crate) fn find() -> Result<Self, String> {
        let folder = std::env::var_os("NAP_KUBE_BIN").map_or_else(|| PathBuf::from("/opt/nap-kube/bin"), PathBuf::from);
        let programs = Self { folder };
        for name in ["kubelet", "kube-apiserver", "kube-controller-manager", "kubectl", "etcd"] {
            if programs.path(name).is_none() {
                return Err(format!("no {name} in {} (set NAP_KUBE_BIN) or in PATH", programs.folder.display()));
            }
        }
        Ok(programs)
    }

    /// Where a program lies.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.folder.clone()).chain(std::env::split_paths(&path));
        folders.map(|folder| folder.join(name)).find(|path| path.is_file())
    }

    /// The version of Kubernetes, such as `1.36.2`.
    pub(crate) fn version(&self) -> String {
        let output = self.command("kubelet").arg("--version").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.trim().rsplit('v').next().unwrap_or_default().to_owned()
    }

    fn command(&self, name: &str) -> Command {
        Command::new(self.path(name).unwrap_or_else(|| panic!("{name} was there a moment ago")))
    }
}

/// The running control plane; it ends with this.
pub(crate) struct Cluster<'a> {
    programs: &'a Programs,
    folder: TempDir,
    address: SocketAddr,
    ca_pem: String,
    children: Vec<Child>,
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill(); // it may have ended by itself
            let _ = child.wait();
        }
    }
}

impl<'a> Cluster<'a> {
    /// Starts it, and gives the bootstrap token its rights.
    pub(crate) fn start(programs: &'a Programs) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca_pem = write_credentials(folder.path());
        let [etcd, peer, address] = free_ports();
        let mut cluster = Self { programs, folder, address, ca_pem, children: Vec::new() };
        write_kubeconfigs(cluster.folder.path(), address);
        cluster.spawn("etcd", &etcd_flags(etcd, peer));
        cluster.spawn("kube-apiserver", &api_server_flags(etcd, address));
        cluster.wait_until_ready();
        cluster.spawn("kube-controller-manager", CONTROLLER_MANAGER_FLAGS.map(str::to_owned).as_slice());
        cluster.apply(&bootstrap_rights());
        cluster
    }

    /// Where the API server listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The cluster's CA.
    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// kubectl as administrator; what it says, and whether it succeeded.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.kubectl_command().args(arguments).stdin(Stdio::null()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// `kubectl apply` of a manifest.
    pub(crate) fn apply(&self, manifest: &str) {
        let path = self.folder.path().join("manifest.yaml");
        fs::write(&path, manifest).unwrap();
        let (applied, text) = self.kubectl(&["apply", "-f", &path.to_string_lossy()]);
        assert!(applied, "{text}");
    }

    fn kubectl_command(&self) -> Command {
        let mut command = self.programs.command("kubectl");
        command.arg("--kubeconfig").arg(self.folder.path().join("admin.kubeconfig"));
        command
    }

    fn spawn(&mut self, name: &str, flags: &[String]) {
        let log = fs::File::create(self.folder.path().join(format!("{name}.log"))).unwrap();
        let mut command = self.programs.command(name);
        command.args(flags).current_dir(self.folder.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.children.push(command.spawn().unwrap());
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + READY;
        loop {
            let (ready, text) = self.kubectl(&["get", "--raw", "/readyz"]);
            if ready {
                return;
            }
            let log = || fs::read_to_string(self.folder.path().join("kube-apiserver.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "the API server is not ready: {text}\n{}", log());
        }
    }
}

fn etcd_flags(client: SocketAddr, peer: SocketAddr) -> Vec<String> {
    let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
    vec![
        "--data-dir=etcd".to_owned(),
        "--unsafe-no-fsync".to_owned(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ]
}

fn api_server_flags(etcd: SocketAddr, address: SocketAddr) -> Vec<String> {
    let mut flags: Vec<_> = [
        "--service-cluster-ip-range=10.0.0.0/16",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--enable-bootstrap-token-auth=true",
        "--client-ca-file=ca.crt",
        "--tls-cert-file=server.crt",
        "--tls-private-key-file=server.key",
        "--kubelet-client-certificate=admin.crt",
        "--kubelet-client-key=admin.key",
        "--service-account-issuer=https://nap-vm.test",
        "--service-account-key-file=service-account.pub",
        "--service-account-signing-key-file=service-account.key",
        "--allow-privileged=true",
        "--bind-address=127.0.0.1",
    ]
    .map(str::to_owned)
    .into();
    flags.push(format!("--etcd-servers=http://{etcd}"));
    flags.push(format!("--secure-port={}", address.port()));
    flags
}

const CONTROLLER_MANAGER_FLAGS: [&str; 10] = [
    // It serves nothing we ask for, and its usual port is taken where two clusters run at a time.
    "--secure-port=0",
    "--kubeconfig=controller-manager.kubeconfig",
    "--authentication-kubeconfig=controller-manager.kubeconfig",
    "--authorization-kubeconfig=controller-manager.kubeconfig",
    "--cluster-signing-cert-file=ca.crt",
    "--cluster-signing-key-file=ca.key",
    "--root-ca-file=ca.crt",
    "--service-account-private-key-file=service-account.key",
    "--use-service-account-credentials=true",
    "--leader-elect=false",
];

/// Ports that are free now; nothing on this machine takes them in the moment until they are used, or the test fails.
fn free_ports() -> [SocketAddr; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

/// Writes the CA, the certificates it signs and the service accounts' key; returns the CA's certificate.
fn write_credentials(folder: &Path) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "nap-vm");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().unwrap();
    let key_pem = key.serialize_pem();
    let ca = CertifiedIssuer::self_signed(params, key).unwrap();
    write(folder, "ca", &ca.pem(), &key_pem);
    let addresses = [API_SERVER.ip().to_string(), "127.0.0.1".to_owned()];
    issue(folder, &ca, "server", ("kube-apiserver", ""), &addresses);
    issue(folder, &ca, "admin", ("admin", "system:masters"), &[]);
    issue(folder, &ca, "controller-manager", ("system:kube-controller-manager", ""), &[]);
    let service_accounts = KeyPair::generate().unwrap();
    fs::write(folder.join("service-account.key"), service_accounts.serialize_pem()).unwrap();
    fs::write(folder.join("service-account.pub"), service_accounts.public_key_pem()).unwrap();
    ca.pem()
}

fn issue(
    folder: &Path,
    ca: &CertifiedIssuer<'_, KeyPair>,
    file: &str,
    (name, group): (&str, &str),
    addresses: &[String],
) {
    let mut params = CertificateParams::new(addresses).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    if !group.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    write(folder, file, &certificate.pem(), &key.serialize_pem());
}

fn write(folder: &Path, name: &str, certificate: &str, key: &str) {
    fs::write(folder.join(format!("{name}.crt")), certificate).unwrap();
    fs::write(folder.join(format!("{name}.key")), key).unwrap();
}

fn write_kubeconfigs(folder: &Path, address: SocketAddr) {
    for user in ["admin", "controller-manager"] {
        let kubeconfig = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://{address}"), "certificate-authority": folder.join("ca.crt"),
            }}],
            "users": [{"name": "u", "user": {
                "client-certificate": folder.join(format!("{user}.crt")), "client-key": folder.join(format!("{user}.key")),
            }}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        fs::write(folder.join(format!("{user}.kubeconfig")), kubeconfig.to_string()).unwrap();
    }
}

/// The bootstrap token, and what a node may do with it and after it.
fn bootstrap_rights() -> String {
    let binding = |role: &str, group: &str| {
        format!(
            "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: \"nap-vm:{group}:{role}\"}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: \"{role}\"}}\n\
             subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: Group, name: \"{group}\"}}]\n"
        )
    };
    [
        format!(
            "apiVersion: v1\nkind: Secret\ntype: bootstrap.kubernetes.io/token\n\
             metadata: {{name: bootstrap-token-{TOKEN_ID}, namespace: kube-system}}\nstringData:\n\
             \x20 token-id: {TOKEN_ID}\n  token-secret: {TOKEN_SECRET}\n  usage-bootstrap-authentication: \"true\"\n"
        ),
        binding("system:node-bootstrapper", "system:bootstrappers"),
        binding("system:certificates.k8s.io:certificatesigningrequests:nodeclient", "system:bootstrappers"),
        binding("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:nodes"),
    ]
    .concat()
}
