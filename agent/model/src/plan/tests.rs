//! Golden plans: one readable file a scenario below `tests/golden`, updated with `make bless`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::*;
use crate::config::carrier::Format;
use crate::config::decode;
use crate::kubernetes::KubernetesVersion;

/// A scenario: `NAME.config` (a wire document) and `facts.json` below `agent/model/testdata`.
const SCENARIOS: &[(&str, &str, &str)] = &[
    (
        "overlay-1.34-ubuntu-2404",
        include_str!("../../testdata/overlay.yaml"),
        include_str!("../../testdata/ubuntu-2404.json"),
    ),
    (
        "cilium-1.36-azurelinux-3",
        include_str!("../../testdata/cilium.yaml"),
        include_str!("../../testdata/azurelinux-3.json"),
    ),
    (
        "node-subnet-1.30-ubuntu-2204",
        include_str!("../../testdata/node-subnet.json"),
        include_str!("../../testdata/ubuntu-2204.json"),
    ),
    (
        "local-disks-1.34-ubuntu-2404",
        include_str!("../../testdata/local-disks.yaml"),
        include_str!("../../testdata/ubuntu-2404-local-disks.json"),
    ),
    (
        "streaming-1.34-ubuntu-2404",
        include_str!("../../testdata/streaming.yaml"),
        include_str!("../../testdata/ubuntu-2404.json"),
    ),
    ("none-1.36-debian-13", include_str!("../../testdata/none.yaml"), include_str!("../../testdata/debian-13.json")),
    (
        "joined-1.36-debian-13",
        include_str!("../../testdata/none.yaml"),
        include_str!("../../testdata/debian-13-joined.json"),
    ),
];

fn scenario_plan(config: &str, facts: &str) -> Plan {
    // Documents of the matrix leave these two open.
    let config = config.replace("MODE", "overlay").replace("VERSION", "1.34.2");
    let decoded = decode(config.as_bytes()).unwrap();
    assert_eq!(decoded.findings.problems, []);
    plan(&decoded.config.unwrap(), &serde_json::from_str(facts).unwrap()).unwrap()
}

/// The plan as a person reviews it.
fn golden(plan: &Plan) -> String {
    let mut text = String::new();
    for note in &plan.notes {
        writeln!(text, "note: {note}").unwrap();
    }
    for stage in &plan.stages {
        writeln!(text, "\n==== {}", stage.name).unwrap();
        for step in &stage.steps {
            let desired = if step.essential { "" } else { ", desired" };
            writeln!(text, "\n-- {} ({:?}{desired}): {}", step.id, step.when, step.why).unwrap();
            match &step.want {
                Want::Directory { path, mode } => writeln!(text, "directory {path} {mode:04o}").unwrap(),
                Want::File { path, mode, content } => {
                    write!(text, "file {path} {mode:04o}\n{}", content.shown()).unwrap()
                }
                Want::Absent { path } => writeln!(text, "absent {path}").unwrap(),
                Want::Choice { path, value } => writeln!(text, "choice {path} = {value}").unwrap(),
                Want::Block { path, place, mode, lines } => {
                    write!(text, "block {path} {place:?} {mode:04o}\n{lines}").unwrap();
                }
                Want::SwapFile { path, bytes } => writeln!(text, "swap file {path}, {bytes} bytes").unwrap(),
                Want::FileIfAbsent { path, mode, content } => {
                    write!(text, "file if absent {path} {mode:04o}\n{}", content.shown()).unwrap()
                }
                Want::Copied { from, to, mode, without, stopped } => {
                    let without = without.map(|name| format!(" without {name}")).unwrap_or_default();
                    let stopped = stopped.map(|unit| format!(" while {unit} is stopped")).unwrap_or_default();
                    writeln!(text, "copy of {from} at {to} {mode:04o}{without}{stopped}").unwrap();
                }
                Want::Volume { volume } => {
                    let members: Vec<_> = volume.members.iter().map(|member| member.serial.as_str()).collect();
                    let verb = if volume.make { "make" } else { "keep" };
                    let array = volume.array.as_ref().map(|uuid| format!(" on array {uuid}")).unwrap_or_default();
                    let (format, uuid) = (volume.format.name(), &volume.file_system);
                    writeln!(text, "{verb} {format} {uuid}{array} of {}", members.join(" ")).unwrap();
                    volume.replaces.iter().for_each(|uuid| writeln!(text, "in place of {uuid}").unwrap());
                }
                Want::TrustStore { bundle, certificates, program } => {
                    writeln!(text, "trust store {bundle} with {} certificates, by {program:?}", certificates.len())
                        .unwrap();
                }
                Want::SelfSigned { certificate, key, names } => {
                    writeln!(text, "self-signed {certificate}, {key} for {}", names.join(", ")).unwrap();
                }
                Want::NoExpiry { user } => writeln!(text, "no expiry of {user}").unwrap(),
                Want::Enabled { name, enabled } => writeln!(text, "enabled {name} {enabled}").unwrap(),
                Want::Reread { name, files, .. } => {
                    let files: Vec<_> = files.iter().map(AbsPath::as_str).collect();
                    writeln!(text, "reread {name} {}", files.join(" ")).unwrap();
                }
                Want::Sysctl { key, value } => writeln!(text, "sysctl {key} = {value}").unwrap(),
                Want::Module { name } => writeln!(text, "module {name}").unwrap(),
                Want::PacketFilter { rules } => {
                    writeln!(text, "packet filter {}, {} bytes", packet_filter_rules(), rules.len()).unwrap()
                }
                Want::WholeImages { socket } => writeln!(text, "whole images behind {socket}").unwrap(),
                Want::KeptSnapshots { socket, snapshotter } => {
                    writeln!(text, "kept snapshots of {snapshotter} behind {socket}").unwrap();
                }
                Want::MirrorAnswers { port } => writeln!(text, "a mirror answers at port {port}").unwrap(),
                Want::Hosts { path, content, .. } => {
                    let content = content.as_deref().unwrap_or("none of ours\n");
                    write!(text, "hosts {path}\n{content}").unwrap();
                }
                Want::SnapshotterAnswers { socket } => writeln!(text, "a snapshotter answers at {socket}").unwrap(),
                Want::Unit { name, readiness, .. } => writeln!(text, "unit {name} {readiness:?}").unwrap(),
            }
        }
    }
    text
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test reads its golden files, and `make bless` writes them")]
fn plans_are_as_reviewed() {
    let bless = std::env::var_os("NAP_BLESS").is_some();
    let mut different = Vec::new();
    for (name, config, facts) in SCENARIOS {
        let path = format!("{}/../../tests/golden/{name}.plan", env!("CARGO_MANIFEST_DIR"));
        let new = golden(&scenario_plan(config, facts));
        if bless {
            std::fs::write(&path, &new).unwrap();
        }
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        if old != new {
            different.push(format!("{path}:\n{}", text_diff(&old, &new)));
        }
    }
    assert!(
        different.is_empty(),
        "plans differ from the reviewed ones (make bless updates them):\n{}",
        different.join("\n")
    );
}

fn plans() -> impl Iterator<Item = (&'static str, Plan)> {
    SCENARIOS.iter().map(|(name, config, facts)| (*name, scenario_plan(config, facts)))
}

#[test]
fn step_ids_and_targets_are_unique() {
    for (name, plan) in plans() {
        let mut ids: Vec<_> = plan.steps().map(|step| &step.id).collect();
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count, "{name}");
        let paths = plan.steps().filter_map(|step| match &step.want {
            Want::Directory { path, .. }
            | Want::File { path, .. }
            | Want::Absent { path }
            | Want::Choice { path, .. }
            | Want::Block { path, .. }
            | Want::FileIfAbsent { path, .. }
            | Want::Copied { to: path, .. }
            | Want::SwapFile { path, .. }
            | Want::Hosts { path, .. }
            | Want::SelfSigned { certificate: path, .. } => Some(path),
            Want::Volume { .. }
            | Want::SnapshotterAnswers { .. }
            | Want::MirrorAnswers { .. }
            | Want::WholeImages { .. }
            | Want::KeptSnapshots { .. }
            | Want::Sysctl { .. }
            | Want::Module { .. }
            | Want::Unit { .. }
            | Want::PacketFilter { .. }
            | Want::TrustStore { .. }
            | Want::NoExpiry { .. }
            | Want::Enabled { .. }
            | Want::Reread { .. } => None,
        });
        let mut paths: Vec<_> = paths.collect();
        let count = paths.len();
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), count, "{name}");
    }
}

#[test]
fn containerds_configuration_reads_back() {
    for (name, plan) in plans() {
        let content = file(&plan, "/etc/containerd/config.toml");
        let table: toml::Table = content.parse().unwrap();
        let version = table["version"].as_integer().unwrap();
        assert_eq!(version, if name.contains("azurelinux") { 3 } else { 2 }, "{name}");
    }
}

fn file<'p>(plan: &'p Plan, wanted: &str) -> &'p str {
    let found = plan.steps().find_map(|step| match &step.want {
        Want::File { path, content, .. } if path.as_str() == wanted => Some(content.reveal()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no {wanted}"))
}

#[test]
fn every_file_with_a_secret_is_for_root_alone() {
    for (name, plan) in plans() {
        for step in plan.steps() {
            if let Want::File { mode, content, path } = &step.want {
                let holds_token =
                    content.reveal().contains("0123456789abcdef") || content.reveal().contains("open-sesame");
                assert!(!holds_token || (*mode == 0o600 && content.is_secret()), "{name} {path}");
            }
        }
    }
}

#[test]
fn the_digest_of_a_unit_follows_its_inputs_and_not_the_token() {
    let inputs = |plan: &Plan| {
        plan.steps().find_map(|step| match &step.want {
            Want::Unit { name: "kubelet.service", inputs, .. } => Some(inputs.clone()),
            _ => None,
        })
    };
    let [.., (_, config, facts), (_, _, joined)] = SCENARIOS else { panic!("two scenarios at least") };
    let first = inputs(&scenario_plan(config, facts));
    assert_eq!(first, inputs(&scenario_plan(config, joined)), "joining must not restart kubelet");
    assert_ne!(first, inputs(&scenario_plan(&config.replace("maxPods: 50", "maxPods: 51"), facts)));
}

#[test]
fn a_router_that_advertises_before_dhcp_answers_does_not_choose_the_nodes_address() {
    let config = decode(SCENARIOS[1].1.as_bytes()).unwrap().config.unwrap();
    let mut facts: Facts = serde_json::from_str(SCENARIOS[1].2).unwrap();
    for (route, wanted) in [("fec0::7", "10.0.0.5"), ("10.0.0.9", "10.0.0.9")] {
        facts.primary_address = Some(route.parse().unwrap());
        let plan = plan(&config, &facts).unwrap();
        let flag = format!("--node-ip={wanted} ");
        assert!(file(&plan, "/etc/default/kubelet").contains(&flag), "{route}: {}", golden(&plan));
    }
}

#[test]
fn a_users_own_flag_that_kubelet_lost_is_refused_and_a_provisioners_left_out() {
    let flag = BTreeMap::from([("cloud-config".to_owned(), "/etc/kubernetes/azure.json".to_owned())]);
    let (_, config, facts) = SCENARIOS[0];
    let mut config = decode(config.as_bytes()).unwrap().config.unwrap();
    config.kubelet.flags = flag;
    let facts = serde_json::from_str(facts).unwrap();
    let failure = plan(&config, &facts).unwrap_err();
    assert_eq!(failure.reason, Reason::ConfigInvalid);
    assert!(failure.message.contains("node.kubeletFlags.cloud-config: Kubernetes 1.34 removed it"), "{failure}");
    config.format = Format::AksNodeConfig;
    let plan = plan(&config, &facts).unwrap();
    assert!(!file(&plan, "/etc/default/kubelet").contains("--cloud-config"));
    let note = "kubelet flag --cloud-config left out: Kubernetes 1.34 removed it";
    assert!(plan.notes.iter().any(|noted| noted == note), "{:?}", plan.notes);
}

#[test]
fn a_machine_that_cannot_become_the_node_is_refused() {
    let (_, config, facts) = SCENARIOS[3];
    let config = decode(config.as_bytes()).unwrap().config.unwrap();
    let facts: Facts = serde_json::from_str(facts).unwrap();
    let reason = |config: &NodeConfig, facts: &Facts| plan(config, facts).unwrap_err().reason;
    let mut without = facts.clone();
    without.programs.kubelet = None;
    assert_eq!(reason(&config, &without), Reason::KubeletBinaryMissing);
    let mut without = facts.clone();
    without.programs.containerd = None;
    assert_eq!(reason(&config, &without), Reason::ContainerdBinaryMissing);
    let mut old = facts.clone();
    old.programs.containerd = KubernetesVersion::try_from("1.5.18").ok();
    let failure = plan(&config, &old).unwrap_err();
    assert_eq!(failure.reason, Reason::ContainerdBinaryMissing);
    assert_eq!(failure.message, "/usr/bin/containerd is 1.5.18; no kubelet works with one before 1.6");
    let without = NodeConfig { bootstrap_token: None, ..config };
    assert_eq!(reason(&without, &facts), Reason::BootstrapCredentialMissing);
}

#[test]
fn an_ipv6_route_that_came_first_does_not_choose_the_nodes_address() {
    let (_, config, facts) = SCENARIOS[0];
    let config = decode(config.as_bytes()).unwrap().config.unwrap();
    let mut facts: Facts = serde_json::from_str(facts).unwrap();
    facts.primary_address = "fd00::1".parse().ok();
    // Which of several interfaces is the primary one, IMDS does not say.
    facts.instance.as_mut().unwrap().interfaces.remove("000D3A123457");
    let flags = |facts: &Facts| file(&plan(&config, facts).unwrap(), "/etc/default/kubelet").to_owned();
    assert!(flags(&facts).contains("--node-ip=10.224.0.7,fd00:224::7 "), "IMDS knows the addresses");
    facts.instance = None;
    assert!(flags(&facts).contains("--node-ip=fd00::1 "), "better than none");
}

/// The scenario with LocalDNS, its document and facts changed.
fn local_dns_plan(change: impl Fn(&mut NodeConfig, &mut Facts)) -> Plan {
    let (_, config, facts) = SCENARIOS[1];
    let mut config = decode(config.as_bytes()).unwrap().config.unwrap();
    let mut facts = serde_json::from_str(facts).unwrap();
    change(&mut config, &mut facts);
    plan(&config, &facts).unwrap()
}

fn cluster_dns(plan: &Plan) -> serde_json::Value {
    let config: serde_json::Value = serde_json::from_str(file(plan, "/etc/default/kubeletconfig.json")).unwrap();
    config["clusterDNS"].clone()
}

#[test]
fn pods_are_sent_to_the_cache_only_where_it_runs() {
    let told = |plan: &Plan| file(plan, "/etc/default/kubelet").contains("localdns-state=enabled");
    let steps = |plan: &Plan| plan.steps().filter(|step| step.id.starts_with("local-dns.")).count();
    let serves = local_dns_plan(|_, _| {});
    assert_eq!((cluster_dns(&serves), told(&serves), steps(&serves)), (serde_json::json!(["169.254.10.11"]), true, 4));
    let position = |id: &str| serves.steps().position(|step| step.id == id).unwrap();
    assert!(position(LOCAL_DNS_RUNNING) < position("kubelet.config"), "kubelet's file waits for the cache");

    for failure in [None, Some("it hangs")] {
        let plain = local_dns_plan(|_, facts| match failure {
            None => facts.present.clear(),
            Some(why) => facts.local_dns_failure = Some(why.to_owned()),
        });
        let why = failure.unwrap_or("the image has no /opt/azure/containers/localdns/binary/coredns");
        assert_eq!((cluster_dns(&plain), told(&plain), steps(&plain)), (serde_json::json!(["10.0.0.10"]), false, 0));
        let note = format!("LocalDnsUnavailable: {why}; the node and its pods use plain DNS");
        assert!(plain.notes.contains(&note), "{:?}", plain.notes);
        // Provisioners that count on the cache send its address.
        let sent = local_dns_plan(|config, facts| {
            config.kubelet.config.insert("clusterDNS".to_owned(), serde_json::json!(["169.254.10.11"]));
            facts.present.clear();
        });
        assert_eq!(cluster_dns(&sent), serde_json::json!(["10.0.0.10"]), "nothing listens at the cache's address");
    }
}

#[test]
fn what_the_provisioner_tells_kubelet_does_not_lead_pods_past_the_cache() {
    let plan = local_dns_plan(|config, _| {
        config.kubelet.config.insert("clusterDNS".to_owned(), serde_json::json!(["10.0.0.10"]));
        config.kubelet.flags.insert("cluster-dns".to_owned(), "10.0.0.10".to_owned());
    });
    assert_eq!(cluster_dns(&plan), serde_json::json!(["169.254.10.11"]));
    assert!(!file(&plan, "/etc/default/kubelet").contains("cluster-dns"));
}

#[test]
fn the_order_of_zones_restarts_nothing() {
    let inputs = |plan: &Plan| plan.steps().find(|step| step.id == LOCAL_DNS_RUNNING).cloned().unwrap();
    let reversed = local_dns_plan(|config, _| {
        let profile = config.local_dns.as_mut().unwrap();
        profile.node_zones.reverse();
        profile.pod_zones.reverse();
    });
    assert_eq!(inputs(&local_dns_plan(|_, _| {})), inputs(&reversed));
}

/// The scenario with secure TLS bootstrapping, its document and facts changed.
fn secure_tls_plan(change: impl Fn(&mut NodeConfig, &mut Facts)) -> Result<Plan, Failure> {
    let (_, config, facts) = SCENARIOS[1];
    let mut config = decode(config.as_bytes()).unwrap().config.unwrap();
    let mut facts = serde_json::from_str(facts).unwrap();
    change(&mut config, &mut facts);
    plan(&config, &facts)
}

#[test]
fn the_token_is_on_the_disk_only_when_it_is_next() {
    let has = |plan: &Plan| {
        let token = plan.steps().find(|step| step.id == "kubelet.bootstrap-kubeconfig").unwrap();
        let run = plan.steps().any(|step| step.id == SECURE_TLS_RUN);
        (matches!(token.want, Want::File { .. }), run)
    };
    assert_eq!(has(&secure_tls_plan(|_, _| {}).unwrap()), (false, true));
    let failed = secure_tls_plan(|_, facts| facts.secure_tls_failure = Some("it hangs".to_owned())).unwrap();
    assert_eq!(has(&failed), (true, false));
    let missing = secure_tls_plan(|_, facts| facts.present.clear()).unwrap();
    assert_eq!(has(&missing), (true, false));
    let unwanted = secure_tls_plan(|config, _| config.secure_tls = None).unwrap();
    assert_eq!(has(&unwanted), (true, false));
}

#[test]
fn without_a_token_the_refusal_says_what_was_tried() {
    assert!(secure_tls_plan(|config, _| config.bootstrap_token = None).is_ok(), "the client may work");
    let failure = secure_tls_plan(|config, facts| {
        config.bootstrap_token = None;
        facts.secure_tls_failure = Some("it hangs".to_owned());
    });
    let failure = failure.unwrap_err();
    assert_eq!(failure.reason, Reason::BootstrapCredentialMissing);
    assert_eq!(
        failure.evidence[..2],
        ["first, secure TLS bootstrapping: it hangs", "second, the bootstrap token: the configuration has none"]
    );
}

#[test]
fn the_client_runs_again_for_a_certificate_that_expired_and_never_for_more_than_half_of_the_boot() {
    let run = |plan: Plan| plan.steps().find(|step| step.id == SECURE_TLS_RUN).map(|step| step.want.clone());
    let first = run(secure_tls_plan(|_, _| {}).unwrap());
    let with = |days: i64| {
        move |_: &mut NodeConfig, facts: &mut Facts| {
            let not_after = facts.observed_at + jiff::SignedDuration::from_hours(24 * days);
            let not_before = not_after - jiff::SignedDuration::from_hours(24 * 365);
            facts.client_certificate = Some(crate::facts::Certificate { not_before, not_after });
        }
    };
    assert_eq!(run(secure_tls_plan(with(1)).unwrap()), None, "kubelet renews what is valid");
    let again = run(secure_tls_plan(with(-1)).unwrap());
    assert!(again.is_some() && again != first, "{again:?}");
    let within = |want: Option<Want>| match want {
        Some(Want::Unit { readiness: Readiness::Done { within }, .. }) => within.as_secs(),
        other => panic!("{other:?}"),
    };
    assert_eq!(within(first), 360, "half of 12 minutes, though its own limits are 8");
    let short =
        secure_tls_plan(|config, _| config.secure_tls.as_mut().unwrap().deadline = std::time::Duration::from_secs(7));
    assert_eq!(within(run(short.unwrap())), 7);
}

/// The kubelet of the first scenario with these fields: who it serves as, its two fields, and the digest that restarts it.
fn serving(
    given: serde_json::Value,
    facts: impl Fn(&mut Facts),
) -> (Option<Vec<String>>, [serde_json::Value; 2], Want) {
    let (_, config, observed) = SCENARIOS[0];
    let mut config = decode(config.as_bytes()).unwrap().config.unwrap();
    config.kubelet.config.extend(given.as_object().unwrap().clone());
    let mut observed = serde_json::from_str(observed).unwrap();
    facts(&mut observed);
    let plan = plan(&config, &observed).unwrap();
    let names = plan.steps().find_map(|step| match &step.want {
        Want::SelfSigned { names, .. } => Some(names.clone()),
        _ => None,
    });
    let fields: serde_json::Value = serde_json::from_str(file(&plan, "/etc/default/kubeletconfig.json")).unwrap();
    let running = plan.steps().find(|step| step.id == "kubelet.running").unwrap().want.clone();
    (names, [fields["tlsCertFile"].clone(), fields["tlsPrivateKeyFile"].clone()], running)
}

#[test]
fn kubelet_serves_under_all_names_of_the_node_unless_somebody_else_sees_to_it() {
    let ours = ["/etc/kubernetes/certs/kubeletserver.crt", "/etc/kubernetes/certs/kubeletserver.key"];
    let ours = ours.map(serde_json::Value::from);
    let (names, fields, running) = serving(serde_json::json!({}), |_| {});
    let wanted = ["10.224.0.7", "10.225.0.7", "aks-default-7x2k", "fd00:224::7"];
    assert_eq!((names.as_deref(), fields), (Some(wanted.map(str::to_owned).as_slice()), ours.clone()));

    let route = |facts: &mut Facts| facts.primary_address = "fe80::20d:3aff:fe00:1".parse().ok();
    assert_eq!(serving(serde_json::json!({}), route).0, names, "what Azure says, whichever route came up first");
    let (names, _, other) = serving(serde_json::json!({}), |facts| facts.instance = None);
    assert!(
        names.unwrap().len() < wanted.len() && other != running,
        "kubelet reads the new certificate when it starts"
    );

    let none = [serde_json::Value::Null, serde_json::Value::Null];
    let signed = serving(serde_json::json!({"serverTLSBootstrap": true}), |_| {});
    assert_eq!((signed.0, signed.1), (None, none));
    let mine = serving(serde_json::json!({"tlsCertFile": "/mine.crt", "tlsPrivateKeyFile": "/mine.key"}), |_| {});
    assert_eq!((mine.0, mine.1), (None, ["/mine.crt", "/mine.key"].map(serde_json::Value::from)));
}
