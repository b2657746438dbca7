//! The program, as the demo and the VM start it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pretend-azure");

fn serve(dir: &Path) -> Child {
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--bootstrap-token", "abcdef.0123456789abcdef", "--clock-offset", "-60", "--dir"]).arg(dir);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn serve_says_where_it_is_and_ends_with_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = serve(dir.path());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let announced: Vec<String> = lines.by_ref().take(3).map(Result::unwrap).collect();
    let description = dir.path().join("pretend-azure.json");
    let places: Value = serde_json::from_slice(&std::fs::read(description).unwrap()).unwrap();
    for (line, server) in announced.iter().zip(["imds", "wireserver", "api"]) {
        assert_eq!(*line, format!("{server} listens at {}", places[server].as_str().unwrap()));
    }
    let ca = std::fs::read_to_string(places["caFile"].as_str().unwrap()).unwrap();
    assert!(ca.starts_with("-----BEGIN CERTIFICATE-----"));

    let reply = relayed(places["imds"].as_str().unwrap().strip_prefix("http://").unwrap());
    assert!(reply.contains(r#""apiVersions""#), "{reply}");
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert!(child.wait().unwrap().success());
    let log = std::fs::read_to_string(dir.path().join("requests.log")).unwrap();
    assert!(log.contains(" imds GET /metadata/versions 200 "), "{log}");
}

/// Asks through `pretend-azure relay`, whose standard input stays open, as QEMU's does.
fn relayed(address: &str) -> String {
    let mut command = Command::new(PROGRAM);
    let mut child = command.args(["relay", address]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"GET /metadata/versions HTTP/1.1\r\nMetadata: true\r\n\r\n").unwrap();
    let mut reply = String::new();
    child.stdout.take().unwrap().read_to_string(&mut reply).unwrap();
    assert!(child.wait().unwrap().success());
    drop(input);
    reply
}

#[test]
fn a_relay_to_nowhere_fails() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = Command::new(PROGRAM).args(["relay", &free.to_string()]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot connect"));
}

#[test]
fn ovf_writes_the_document_of_the_disc() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("custom-data"), dir.path().join("ovf-env.xml"));
    std::fs::write(&data, "hello").unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("ovf").arg("--custom-data").arg(&data).args(["--hostname", "node-1"]).arg("--out").arg(&out);
    assert!(command.status().unwrap().success());
    let xml = std::fs::read_to_string(out).unwrap();
    assert!(xml.contains("<CustomData>aGVsbG8=</CustomData>"));
    assert!(xml.contains("<HostName>node-1</HostName>"));
}

#[test]
fn a_token_that_is_none_is_refused() {
    let output = Command::new(PROGRAM)
        .args(["serve", "--dir", "/nonexistent", "--bootstrap-token", "nonsense"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}
