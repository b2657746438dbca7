//! Words for what every test does in a guest.

use std::fmt::Arguments;
use std::io::Write as _;
use std::time::{Duration, Instant};

use nap_vm::{Overlay, Vm, VmError, artifact, workspace};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::Value;

/// From power-on to the end of a boot of the agent, on two busy cores under emulation. Usually 40 s.
pub(crate) const BOOT: Duration = Duration::from_secs(600);
/// From a fault to the verdict that it asks for, and back: minutes by the rules, more under emulation.
pub(crate) const VERDICT: Duration = Duration::from_secs(600);
/// One command that waits for nothing.
pub(crate) const COMMAND: Duration = Duration::from_secs(120);

/// Killed until systemd gives it up; a repair may be there before that was seen.
macro_rules! give_up {
    ($unit:literal) => {
        concat!(
            "repairs() { cat /var/lib/nap-agent/repairs.jsonl 2>/dev/null | wc -l; }; before=$(repairs); ",
            "until systemctl show ",
            $unit,
            " --property ActiveState,SubState | xargs | grep -q 'ActiveState=failed SubState=failed' || [ $(repairs) -gt $before ]; ",
            "do systemctl kill --kill-whom=main --signal=KILL ",
            $unit,
            " 2>/dev/null; sleep 0.2; done"
        )
    };
}
pub(crate) use give_up;

/// A client certificate that ended years ago.
pub(crate) fn expired_certificate() -> String {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

/// Tells whoever runs the tests, also when they pass: the test harness swallows only what `println!` says.
pub(crate) fn note(text: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "nap-vm: {text}"); // nobody listens: nobody needs to know
}

/// Whether a test that takes long, or only measures, is wanted; says so when it is not.
pub(crate) fn is_wanted(variable: &str, command: &str) -> bool {
    let is_wanted = std::env::var_os(variable).is_some();
    if !is_wanted {
        note(format_args!("SKIPPED: `{command}` runs it"));
    }
    is_wanted
}

/// The agent as its package installs it.
pub(crate) fn agent() -> Result<Overlay, VmError> {
    let folder = workspace().join("systemd");
    Overlay::new()
        .file("/usr/bin/nap-agent", artifact("nap-agent")?, 0o755)
        .file("/usr/lib/tmpfiles.d/nap-agent.conf", folder.join("nap-agent.tmpfiles.conf"), 0o644)
        .file("/usr/lib/systemd/system-preset/80-nap-agent.preset", folder.join("80-nap-agent.preset"), 0o644)
        .enabled_unit(&folder.join("nap-boot.service"))?
        .enabled_unit(&folder.join("nap-agent.service"))
}

/// The agent, and a kubelet for it.
pub(crate) fn node() -> Overlay {
    agent().unwrap().file("/opt/bin/kubelet", artifact("pretend-kubelet").unwrap(), 0o755)
}

/// What a command says, which must succeed.
pub(crate) fn told(vm: &mut Vm, command: &str) -> String {
    let output = vm.run(command, COMMAND).unwrap();
    assert_eq!(output.status, 0, "{command}: {}", output.text);
    output.text.trim_end().to_owned()
}

/// A JSON file of the guest.
pub(crate) fn json(vm: &mut Vm, path: &str) -> Value {
    let text = told(vm, &format!("cat {path}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path} is no JSON ({error}): {text}"))
}

/// Waits in the guest for the end of the boot, as the provisioner's extension does, and returns its exit code.
pub(crate) fn wait_for_agent(vm: &mut Vm) -> i32 {
    vm.wait_for_shell(BOOT).unwrap();
    let command = format!("nap-agent wait --timeout {}", BOOT.as_secs());
    let output = vm.run(&command, BOOT + Duration::from_secs(10)).unwrap();
    note(format_args!("{command}: {} {}", output.status, output.text));
    output.status
}

/// What the guard's endpoint says; its status has no word on the node.
pub(crate) fn endpoint(vm: &mut Vm, path: &str) -> String {
    let ask = format!(
        r"exec 3<>/dev/tcp/127.0.0.1/20266; printf 'GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' >&3; sed '1,/^\r$/d' <&3"
    );
    vm.run(&ask, COMMAND).unwrap().text
}

/// Looks at the health document until it is so. The guard serves it from a moment after the boot on.
pub(crate) fn until_health(vm: &mut Vm, mut is_so: impl FnMut(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let answer = endpoint(vm, "/v1/health");
        let document = serde_json::from_str(&answer);
        if document.as_ref().is_ok_and(&mut is_so) {
            return document.unwrap();
        }
        assert!(start.elapsed() < VERDICT, "{answer}");
    }
}

/// Nothing that the agent set was changed by anybody else: `status` finds no drift now, and the guard never had one to put back.
pub(crate) fn assert_nothing_drifted(vm: &mut Vm) {
    told(vm, "nap-agent status");
    let journal = told(vm, "cat /var/lib/nap-agent/journal.jsonl");
    let lines = journal.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    // What systemd said of a unit while it read its files again may have been another thing a moment later.
    let repairs: Vec<_> = lines.filter(|line| line["run"] == "guard" && line["event"] != "in-sync").collect();
    assert!(repairs.is_empty(), "the guard had to put back: {repairs:#?}");
}

/// What the boot cost here, for the README; the stages that wait for the world are among them, by name.
pub(crate) fn note_figures(vm: &mut Vm, which: &str) {
    let fields = "journalctl --unit nap-boot.service --boot --output verbose | grep -E '_(CPU_MS|PROGRAMS_STARTED|TOOK_MS)=' | tail -n 3 | xargs";
    let fields = told(vm, fields);
    let report = json(vm, "/var/log/azure/aks/provision.json");
    let cpu = told(vm, "systemctl show --property CPUUsageNSec,MemoryPeak nap-boot.service | xargs");
    let guard = told(vm, "systemctl show --property CPUUsageNSec,MemoryCurrent nap-agent.service | xargs");
    note(format_args!("{which}: {fields}; {cpu}; stages {}; guard {guard}", report["Stages"]));
}

/// A finding that is there and not only held.
pub(crate) fn finding<'a>(document: &'a Value, reason: &str) -> Option<&'a Value> {
    findings(document).find(|finding| finding["reason"] == reason && finding["held"] != true)
}

/// All of them.
pub(crate) fn findings(document: &Value) -> impl Iterator<Item = &Value> {
    let subsystems = document["subsystems"].as_array().into_iter().flatten();
    subsystems.flat_map(|one| one["findings"].as_array().into_iter().flatten())
}

/// Seconds of the guest's clock.
pub(crate) fn now(vm: &mut Vm) -> f64 {
    told(vm, "date +%s.%N").parse().unwrap()
}

/// A time of the health document, in seconds.
pub(crate) fn seconds(time: &Value) -> f64 {
    let time: jiff::Timestamp = text(time).parse().unwrap();
    time.as_millisecond() as f64 / 1000.0
}

/// A text of it; empty when there is none.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
