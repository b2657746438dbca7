//! With the real kubelet and the real API server: the node becomes Ready and runs a pod.
//!
//! Needs `$NAP_KUBE_BIN` (default /opt/nap-kube/bin) with kubelet, kube-apiserver, kube-controller-manager and kubectl, and etcd
//! there or in PATH. Without them the test says so and passes.

use std::time::Instant;

use nap_vm::{Image, Vm, VmLock, VmOptions};

use crate::azure::{Azure, NODE, VM_ID, bootstrap, custom_data};
use crate::cluster::{Cluster, Programs};
use crate::guest::{self, BOOT, note, told, wait_for_agent};

/// The pod's image and the sandbox's.
const TINY: &str = "nap-vm.test/tiny:1";

#[test]
fn real_kubelet_makes_the_node_ready_and_runs_a_pod() {
    let programs = match Programs::find() {
        Ok(programs) => programs,
        Err(missing) => {
            note(format_args!("SKIPPED: the test with the real kubelet and API server: {missing}"));
            return;
        }
    };
    let (lock, image) = (VmLock::take().unwrap(), Image::build().unwrap());
    let (azure, cluster) = (Azure::start(), Cluster::start(&programs));
    let mut vm = Vm::start_with(lock, &image, &options(&azure, &cluster, &programs)).unwrap();
    let power_on = Instant::now();

    assert_eq!(wait_for_agent(&mut vm), 0);
    note(format_args!("the agent says that the node registered, {:?} after power-on", power_on.elapsed()));
    guest::note_figures(&mut vm, "with the real kubelet");
    let within = format!("--timeout={}s", BOOT.as_secs());
    let node = cluster.kubectl(&["wait", "--for=condition=Ready", &within, &format!("node/{NODE}")]);
    assert!(node.0, "{}\n{}", node.1, cluster.kubectl(&["describe", "nodes"]).1);
    note(format_args!("node Ready, {:?} after power-on", power_on.elapsed()));

    told(&mut vm, &format!("/usr/lib/nap-vm/tiny-image {TINY}"));
    let applied = Instant::now();
    cluster.apply(&pod());
    let pod = cluster.kubectl(&["wait", "--for=condition=Ready", &within, "pod/tiny"]);
    assert!(pod.0, "{}\n{}", pod.1, cluster.kubectl(&["describe", "pod", "tiny"]).1);
    note(format_args!("pod Ready, {:?} after it was created", applied.elapsed()));
    let (_, address) = cluster.kubectl(&["get", "pod", "tiny", "-o", "jsonpath={.status.podIP}"]);
    assert!(address.starts_with("10.244.1."), "{address}");
    told(&mut vm, "test ! -e /var/lib/kubelet/bootstrap-kubeconfig");
    guest::assert_nothing_drifted(&mut vm);
    // In good order it would take 90 s: `sleep` as a container's first process is deaf to SIGTERM.
    vm.cut_power().unwrap();
}

fn options(azure: &Azure, cluster: &Cluster<'_>, programs: &Programs) -> VmOptions {
    let conflist = r#"{"cniVersion":"1.0.0","name":"nap-vm","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,
        "ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}"#;
    let more = format!("containerd:\n  sandboxImage: {TINY}\n");
    let bootstrap = bootstrap(cluster.ca_pem(), &programs.version(), &more);
    let mut options = VmOptions::new("cluster", VM_ID);
    options.overlay = guest::agent()
        .unwrap()
        .file("/opt/bin/kubelet", programs.path("kubelet").expect("found before"), 0o755)
        .text("/usr/lib/nap-vm/tiny-image", include_str!("tiny-image.sh"), 0o755)
        .text("/etc/cni/net.d/10-bridge.conflist", conflist, 0o644);
    options.disc = Some(azure.disc(Some(custom_data(&bootstrap))));
    options.forwards = azure.forwards_to(cluster.address());
    options.memory_mib = 3072;
    options
}

/// On the node by name, as there is no scheduler; whatever the node's taints are.
fn pod() -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: tiny, namespace: default}}\nspec:\n  nodeName: {NODE}\n\
         \x20 automountServiceAccountToken: false\n  terminationGracePeriodSeconds: 0\n\
         \x20 tolerations: [{{operator: Exists}}]\n\
         \x20 containers: [{{name: tiny, image: \"{TINY}\", imagePullPolicy: Never}}]\n"
    )
}
