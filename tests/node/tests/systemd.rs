//! The stand-in for systemd is held to the contract that the real one passes in the VM.

use nap_host::private_socket;
use pretend_node::systemd::contract::{self, Setup};
use pretend_node::systemd::{Call, PretendSystemd, Runner};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;
use zbus::zvariant::{OwnedObjectPath, OwnedValue};

const SLEEP: &str = "[Service]\nExecStart=/bin/sh -c 'echo $$$$ > PID; exec sleep 1000'\n";

fn link_programs(root: &Path) {
    fs::create_dir_all(root.join("bin")).unwrap();
    for program in ["sh", "true", "false", "sleep"] {
        symlink(Path::new("/bin").join(program), root.join("bin").join(program)).unwrap();
    }
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

async fn call<B, R>(connection: &zbus::Connection, member: &str, body: &B) -> R
where
    B: serde::Serialize + zbus::zvariant::DynamicType,
    R: serde::de::DeserializeOwned + zbus::zvariant::Type,
{
    let interface = Some("org.freedesktop.systemd1.Manager");
    let reply = connection.call_method(None::<&str>, "/org/freedesktop/systemd1", interface, member, body);
    reply.await.unwrap().body().deserialize().unwrap()
}

async fn property(connection: &zbus::Connection, unit: &str, name: &str) -> OwnedValue {
    let path: OwnedObjectPath = call(connection, "LoadUnit", &(unit,)).await;
    let interface = Some("org.freedesktop.DBus.Properties");
    let body = ("org.freedesktop.systemd1.Unit", name);
    let reply = connection.call_method(None::<&str>, path.as_str(), interface, "Get", &body);
    reply.await.unwrap().body().deserialize().unwrap()
}

#[tokio::test]
async fn the_stand_in_keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    link_programs(root.path());
    let systemd = PretendSystemd::start(root.path(), Runner::Processes).unwrap();
    let setup = Setup {
        socket: systemd.bus().to_owned(),
        unit_dir: root.path().join("run/systemd/system"),
        unit_dir_inside: "/run/systemd/system".to_owned(),
        scratch: scratch.path().to_owned(),
        deadline: Duration::from_secs(30),
    };
    let mut faults = Vec::new();
    contract::run(&setup, |finding| faults.extend(finding.fault.is_some().then_some(finding))).await;
    assert!(faults.is_empty(), "{faults:#?}");
}

#[tokio::test]
async fn without_processes_units_only_change_state_and_calls_are_noted() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        "etc/systemd/system/a.service",
        "[Service]\nExecStart=/no/such/program\n[Install]\nWantedBy=x.target\n",
    );
    let systemd = PretendSystemd::start(root.path(), Runner::Nothing).unwrap();
    let connection = private_socket::connect(systemd.bus(), &["JobRemoved", "PropertiesChanged"]).await.unwrap();
    let _: () = call(&connection, "Reload", &()).await;
    let _: OwnedObjectPath = call(&connection, "StartUnit", &("a.service", "replace")).await;
    assert_eq!(
        property(&connection, "a.service", "ActiveState").await,
        OwnedValue::from(zbus::zvariant::Str::from("active"))
    );
    let _: (bool, Vec<(String, String, String)>) =
        call(&connection, "EnableUnitFiles", &(vec!["a.service"], false, false)).await;
    assert_eq!(
        fs::read_link(root.path().join("etc/systemd/system/x.target.wants/a.service")).unwrap(),
        Path::new("/etc/systemd/system/a.service")
    );
    let noted = |unit: &str, verb: &str| Call { unit: unit.to_owned(), verb: verb.to_owned() };
    assert_eq!(
        systemd.history(),
        [noted("", "Reload"), noted("a.service", "StartUnit"), noted("a.service", "EnableUnitFiles")]
    );
}

#[tokio::test]
async fn a_drop_in_in_a_new_folder_goes_unnoticed_until_a_reload() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "etc/systemd/system/a.service", "[Service]\nExecStart=/bin/true\n");
    let systemd = PretendSystemd::start(root.path(), Runner::Nothing).unwrap();
    let connection = private_socket::connect(systemd.bus(), &["JobRemoved", "PropertiesChanged"]).await.unwrap();
    let _: OwnedObjectPath = call(&connection, "StartUnit", &("a.service", "replace")).await;
    write(root.path(), "etc/systemd/system/a.service.d/10-x.conf", "[Unit]\nDescription=x\n");
    assert_eq!(property(&connection, "a.service", "NeedDaemonReload").await, OwnedValue::from(false));
    let _: () = call(&connection, "Reload", &()).await;
    fs::remove_file(root.path().join("etc/systemd/system/a.service.d/10-x.conf")).unwrap();
    assert_eq!(property(&connection, "a.service", "NeedDaemonReload").await, OwnedValue::from(true));
}

#[tokio::test]
async fn dropping_it_ends_its_processes() {
    let root = tempfile::tempdir().unwrap();
    link_programs(root.path());
    let pid = root.path().join("pid");
    let text = SLEEP
        .replace("PID", &pid.to_string_lossy())
        .replace("[Service]\n", "[Service]\nType=notify\nNotifyAccess=all\n");
    let text = text.replace("; exec", "; systemd-notify --ready; exec");
    write(root.path(), "etc/systemd/system/a.service", &text);
    let systemd = PretendSystemd::start(root.path(), Runner::Processes).unwrap();
    let connection = private_socket::connect(systemd.bus(), &["JobRemoved", "PropertiesChanged"]).await.unwrap();
    let rule = zbus::MatchRule::builder().msg_type(zbus::message::Type::Signal).member("JobRemoved").unwrap().build();
    let mut stream = Box::pin(zbus::MessageStream::for_match_rule(rule, &connection, None).await.unwrap());
    let _: OwnedObjectPath = call(&connection, "StartUnit", &("a.service", "replace")).await;
    let next = std::future::poll_fn(|context| zbus::export::futures_core::Stream::poll_next(stream.as_mut(), context));
    tokio::time::timeout(Duration::from_secs(30), next).await.unwrap().unwrap().unwrap();
    let number: u32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    assert!(Path::new(&format!("/proc/{number}")).exists());
    tokio::task::spawn_blocking(move || drop(systemd)).await.unwrap();
    assert!(!Path::new(&format!("/proc/{number}")).exists());
}

#[tokio::test]
async fn a_service_that_stops_feeding_its_watchdog_is_killed() {
    let root = tempfile::tempdir().unwrap();
    link_programs(root.path());
    let text = "[Service]\nType=notify\nNotifyAccess=all\nWatchdogSec=50ms\n\
        ExecStart=/bin/sh -c 'systemd-notify --ready; exec sleep 1000'\n";
    write(root.path(), "etc/systemd/system/a.service", text);
    let systemd = PretendSystemd::start(root.path(), Runner::Processes).unwrap();
    let connection = private_socket::connect(systemd.bus(), &["JobRemoved", "PropertiesChanged"]).await.unwrap();
    let rule = zbus::MatchRule::builder().member("PropertiesChanged").unwrap().build();
    let mut stream = Box::pin(zbus::MessageStream::for_match_rule(rule, &connection, None).await.unwrap());
    let _: OwnedObjectPath = call(&connection, "StartUnit", &("a.service", "replace")).await;
    let failed = OwnedValue::from(zbus::zvariant::Str::from("failed"));
    while property(&connection, "a.service", "ActiveState").await != failed {
        let next =
            std::future::poll_fn(|context| zbus::export::futures_core::Stream::poll_next(stream.as_mut(), context));
        tokio::time::timeout(Duration::from_secs(30), next).await.unwrap().unwrap().unwrap();
    }
    let path: OwnedObjectPath = call(&connection, "LoadUnit", &("a.service",)).await;
    let body = ("org.freedesktop.systemd1.Service", "Result");
    let reply = connection
        .call_method(None::<&str>, path.as_str(), Some("org.freedesktop.DBus.Properties"), "Get", &body)
        .await
        .unwrap();
    let result: OwnedValue = reply.body().deserialize().unwrap();
    assert_eq!(result, OwnedValue::from(zbus::zvariant::Str::from("watchdog")));
}
