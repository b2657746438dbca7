//! What cloud-init's Azure datasource does with the wireserver.

use pretend_azure::{ANY_PORT, HealthState, Wireserver};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn exchange(server: &Wireserver, method: &str, target: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let length = body.len();
    let request =
        format!("{method} {target} HTTP/1.1\r\nHost: wire\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

const AGENT: &str = "x-ms-agent-name: WALinuxAgent\r\nx-ms-version: 2012-11-30\r\n";

fn text_of(xml: &str, element: &str) -> String {
    let (_, rest) = xml.split_once(&format!("<{element}>")).unwrap();
    rest.split_once('<').unwrap().0.to_owned()
}

fn report(goal_state: &str, container: &str, state: &str) -> String {
    let (incarnation, instance) = (text_of(goal_state, "Incarnation"), text_of(goal_state, "InstanceId"));
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><Health><GoalStateIncarnation>{incarnation}</GoalStateIncarnation>\
        <Container><ContainerId>{container}</ContainerId><RoleInstanceList><Role><InstanceId>{instance}</InstanceId>\
        <Health><State>{state}</State></Health></Role></RoleInstanceList></Container></Health>"
    )
}

#[tokio::test]
async fn a_vm_reads_its_goal_state_and_reports_ready() {
    let server = Wireserver::start(ANY_PORT).await.unwrap();
    let goal_state = exchange(&server, "GET", "/machine/?comp=goalstate", AGENT, "").await;
    assert!(goal_state.starts_with("HTTP/1.1 200 "));
    let ready = report(&goal_state, &text_of(&goal_state, "ContainerId"), "Ready");
    let accepted = exchange(&server, "POST", "/machine?comp=health", AGENT, &ready).await;
    assert!(accepted.starts_with("HTTP/1.1 200 "));
    server.reported(1).await;
    let states: Vec<HealthState> = server.health_reports().iter().map(|report| report.state).collect();
    assert_eq!(states, [HealthState::Ready]);
}

#[tokio::test]
async fn a_report_about_something_else_is_refused() {
    let server = Wireserver::start(ANY_PORT).await.unwrap();
    let goal_state = exchange(&server, "GET", "/machine/?comp=goalstate", AGENT, "").await;
    let foreign = report(&goal_state, "another", "Ready");
    assert!(exchange(&server, "POST", "/machine?comp=health", AGENT, &foreign).await.starts_with("HTTP/1.1 410 "));
    assert!(exchange(&server, "POST", "/machine?comp=health", AGENT, "junk").await.starts_with("HTTP/1.1 400 "));
    assert_eq!(server.health_reports(), []);
}

#[tokio::test]
async fn the_version_header_is_wanted_where_the_real_one_wants_it() {
    let server = Wireserver::start(ANY_PORT).await.unwrap();
    assert!(exchange(&server, "GET", "/machine/?comp=goalstate", "", "").await.starts_with("HTTP/1.1 400 "));
    assert!(exchange(&server, "GET", "/?comp=versions", "", "").await.contains("2012-11-30"));
    assert!(exchange(&server, "GET", "/nothing", AGENT, "").await.starts_with("HTTP/1.1 404 "));
}
