//! What a client of IMDS relies on, over real connections.

use std::io;
use std::time::{Duration, Instant};

use pretend_azure::{ANY_PORT, Fault, Imds, ImdsOptions, Instance, ScheduledEvent, busiest_second};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const INSTANCE: &str = "/metadata/instance?api-version=2021-08-01";
const USER_DATA: &str = "/metadata/instance/compute/userData?api-version=2021-01-01&format=text";

struct Reply {
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

async fn exchange(imds: &Imds, request: String) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(imds.address()).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let body = bytes.split_off(end + 4);
    Ok(Reply { head: String::from_utf8(bytes).unwrap(), body })
}

fn request(method: &str, target: &str, headers: &str, body: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: imds\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

async fn get(imds: &Imds, target: &str) -> io::Result<Reply> {
    exchange(imds, request("GET", target, "Metadata: true\r\n", "")).await
}

async fn status(imds: &Imds, target: &str) -> u16 {
    get(imds, target).await.unwrap().status()
}

async fn start() -> Imds {
    Imds::start(ANY_PORT, Instance::default()).await.unwrap()
}

#[tokio::test]
async fn requests_that_azure_refuses_are_refused() {
    let imds = start().await;
    let asked = |method, target, headers| exchange(&imds, request(method, target, headers, ""));
    let metadata = "Metadata: true\r\n";
    let refused = [
        (asked("GET", INSTANCE, "").await, 400),
        (asked("GET", INSTANCE, "Metadata: false\r\n").await, 400),
        (asked("GET", INSTANCE, "Metadata: true\r\nX-Forwarded-For: 10.0.0.1\r\n").await, 403),
        (asked("POST", INSTANCE, metadata).await, 405),
        (asked("PUT", "/metadata/scheduledevents?api-version=2020-07-01", metadata).await, 405),
        (asked("GET", "/metadata/instance", metadata).await, 400),
        (asked("GET", "/metadata/instance?api-version=1999-01-01", metadata).await, 400),
        (asked("GET", "/metadata/instance?api-version=2021-08-01&api-version=2021-08-01", metadata).await, 400),
        (asked("GET", "/metadata/instance/compute/vmId?api-version=2021-08-01", metadata).await, 400),
        (asked("GET", "/metadata/instance/compute/nothing?api-version=2021-08-01", metadata).await, 404),
        (asked("GET", "/elsewhere", metadata).await, 404),
    ];
    for (index, (reply, want)) in refused.into_iter().enumerate() {
        assert_eq!(reply.unwrap().status(), want, "request {index}");
    }
}

#[tokio::test]
async fn a_wrong_version_is_answered_with_the_newest_ones() {
    let options = ImdsOptions { api_versions: vec!["2017-04-02", "2019-06-01"], ..ImdsOptions::default() };
    let imds = Imds::start_with(ANY_PORT, Instance::default(), options).await.unwrap();
    let refusal = get(&imds, INSTANCE).await.unwrap();
    assert_eq!(refusal.status(), 400);
    let error = "Bad request. api-version is invalid or was not specified in the request.";
    assert_eq!(refusal.json(), json!({"error": error, "newest-versions": ["2019-06-01", "2017-04-02"]}));
    assert_eq!(status(&imds, "/metadata/instance?api-version=2019-06-01").await, 200);
    let versions = get(&imds, "/metadata/versions").await.unwrap().json();
    assert_eq!(versions, json!({"apiVersions": ["2017-04-02", "2019-06-01"]}));
}

#[tokio::test]
async fn the_document_its_branches_and_its_leaves_agree() {
    let imds = start().await;
    let document = get(&imds, "/metadata/instance?api-version=2021-08-01&extended=true").await.unwrap().json();
    assert_eq!(document["extended"]["compute"]["hasCustomData"], json!(false));
    let branch = get(&imds, "/metadata/instance/network/interface/0?api-version=2021-08-01").await.unwrap().json();
    assert_eq!(branch, document["network"]["interface"][0]);
    let leaf = get(&imds, "/metadata/instance/compute/vmId?api-version=2021-08-01&format=text").await.unwrap();
    assert_eq!(leaf.text(), document["compute"]["vmId"]);
}

#[tokio::test]
async fn user_data_is_base64_and_changes_while_the_vm_runs() {
    let imds = start().await;
    assert_eq!(get(&imds, USER_DATA).await.unwrap().text(), "");
    imds.update(|instance| instance.user_data = b"hello".to_vec());
    assert_eq!(get(&imds, USER_DATA).await.unwrap().text(), "aGVsbG8=");
    let old = USER_DATA.replace("2021-01-01", "2020-12-01");
    assert_eq!(status(&imds, &old).await, 404);
}

#[tokio::test]
async fn custom_data_is_empty_unless_this_is_an_emulator() {
    let leaf = "/metadata/instance/compute/customData?api-version=2021-08-01&format=text";
    let instance = || Instance { custom_data: b"hello".to_vec(), ..Instance::default() };
    let azure = Imds::start(ANY_PORT, instance()).await.unwrap();
    assert_eq!(get(&azure, leaf).await.unwrap().text(), "");
    let options = ImdsOptions { serve_custom_data: true, ..ImdsOptions::default() };
    let emulator = Imds::start_with(ANY_PORT, instance(), options).await.unwrap();
    assert_eq!(get(&emulator, leaf).await.unwrap().text(), "aGVsbG8=");
}

#[tokio::test]
async fn scheduled_events_are_listed_acknowledged_and_completed() {
    let imds = start().await;
    let target = "/metadata/scheduledevents?api-version=2020-07-01";
    assert_eq!(get(&imds, target).await.unwrap().json(), json!({"DocumentIncarnation": 1, "Events": []}));
    imds.schedule(ScheduledEvent {
        event_id: "A123BC45-1234-5678-AB90-ABCDEF123456".into(),
        event_type: "Freeze".into(),
        resources: vec!["aks-default-0".into()],
        not_before: "Mon, 19 Sep 2016 18:29:47 GMT".into(),
        description: "Host server is undergoing maintenance.".into(),
        event_source: "Platform".into(),
        duration_in_seconds: 5,
    });
    let listed = get(&imds, target).await.unwrap().json();
    assert_eq!(listed["DocumentIncarnation"], 2);
    assert_eq!(listed["Events"][0]["EventStatus"], "Scheduled");

    let post = |body: &'static str| exchange(&imds, request("POST", target, "Metadata: true\r\n", body));
    assert_eq!(post("{}").await.unwrap().status(), 400);
    let body = r#"{"StartRequests":[{"EventId":"A123BC45-1234-5678-AB90-ABCDEF123456"}]}"#;
    assert_eq!(post(body).await.unwrap().status(), 200);
    let started = get(&imds, target).await.unwrap().json();
    assert_eq!(
        (&started["Events"][0]["EventStatus"], &started["Events"][0]["NotBefore"]),
        (&json!("Started"), &json!(""))
    );
    imds.complete_event("A123BC45-1234-5678-AB90-ABCDEF123456");
    assert_eq!(get(&imds, target).await.unwrap().json()["Events"], json!([]));
}

#[tokio::test]
async fn each_fault_is_what_its_name_says_and_then_the_service_is_well() {
    let imds = start().await;
    let faults = vec![
        Fault::Status(503, Some(7)),
        Fault::TooManyRequests(Some(3)),
        Fault::BadJson,
        Fault::EmptyBody,
        Fault::HugeBody,
        Fault::Redirect("http://10.0.0.1/".into()),
        Fault::WrongVmId("00000000-0000-0000-0000-000000000000".into()),
        Fault::Http10NoLength,
        Fault::SlowBody { chunk: 1 << 20, pause: Duration::from_millis(1) },
    ];
    imds.set_faults(faults).await;
    let unavailable = get(&imds, INSTANCE).await.unwrap();
    assert_eq!(unavailable.status(), 503);
    assert!(unavailable.head.contains("Retry-After: 7\r\n"));
    let limited = get(&imds, INSTANCE).await.unwrap();
    assert_eq!((limited.status(), limited.head.contains("Retry-After: 3\r\n")), (429, true));
    assert!(serde_json::from_slice::<Value>(&get(&imds, INSTANCE).await.unwrap().body).is_err());
    assert_eq!(get(&imds, INSTANCE).await.unwrap().body, b"");
    assert!(get(&imds, INSTANCE).await.unwrap().body.len() > 10_000_000);
    assert!(get(&imds, INSTANCE).await.unwrap().head.contains("Location: http://10.0.0.1/\r\n"));
    let stranger = get(&imds, INSTANCE).await.unwrap().json();
    assert_eq!(stranger["compute"]["vmId"], "00000000-0000-0000-0000-000000000000");
    let ancient = get(&imds, INSTANCE).await.unwrap();
    assert!(ancient.head.starts_with("HTTP/1.0 200") && !ancient.head.contains("Content-Length"));
    assert_eq!(get(&imds, INSTANCE).await.unwrap().status(), 200);
    assert_eq!(get(&imds, INSTANCE).await.unwrap().json()["compute"]["vmId"], ancient.json()["compute"]["vmId"]);
    assert_eq!(imds.requests().len(), 10);
    assert_eq!(imds.requests()[0].status, Some(503));
}

#[tokio::test]
async fn a_reset_comes_in_the_middle_of_the_body() {
    let imds = start().await;
    imds.set_faults(vec![Fault::ResetMidBody]).await;
    let error = get(&imds, INSTANCE).await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(status(&imds, INSTANCE).await, 200);
}

#[tokio::test]
async fn a_hanging_request_is_seen_and_never_answered() {
    let imds = start().await;
    imds.set_faults(vec![Fault::Forever(Box::new(Fault::AcceptAndHang))]).await;
    let hanging = get(&imds, INSTANCE);
    let seen = imds.log().reached(1);
    tokio::select! {
        _ = hanging => panic!("answered"),
        () = seen => {}
    }
    assert_eq!(imds.requests()[0].status, None);
}

#[tokio::test]
async fn a_refusal_can_come_first_and_between_requests() {
    let imds = start().await;
    let hour = Duration::from_secs(3600);
    imds.set_faults(vec![Fault::ConnectRefused(hour)]).await;
    assert_eq!(get(&imds, INSTANCE).await.err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
    imds.set_faults(vec![Fault::None, Fault::ConnectRefused(hour)]).await;
    assert_eq!(status(&imds, INSTANCE).await, 200);
    assert_eq!(get(&imds, INSTANCE).await.err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
    imds.set_faults(Vec::new()).await;
    assert_eq!(status(&imds, INSTANCE).await, 200);
}

#[tokio::test]
async fn the_rate_limit_refuses_the_sixth_request_in_a_second() {
    let options = ImdsOptions { requests_per_second: Some(5), ..ImdsOptions::default() };
    let imds = Imds::start_with(ANY_PORT, Instance::default(), options).await.unwrap();
    let start = Instant::now();
    let mut statuses = Vec::new();
    while statuses.len() < 6 {
        statuses.push(status(&imds, INSTANCE).await);
    }
    // On a machine so slow that six requests take a second there is nothing to refuse.
    if start.elapsed() < Duration::from_secs(1) {
        assert_eq!(statuses, [200, 200, 200, 200, 200, 429]);
        assert_eq!(busiest_second(&imds.requests()), 6);
    }
}

#[tokio::test]
async fn stopping_frees_the_port() {
    let imds = start().await;
    let address = imds.address();
    imds.stop().await;
    assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    Imds::start(address, Instance::default()).await.unwrap();
}
