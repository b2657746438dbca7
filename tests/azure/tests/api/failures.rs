//! Servers that are wrong on purpose.

use std::time::Duration;

use hyper::Request;
use kube::client::Body;
use kube::config::AuthInfo;
use pretend_azure::{ApiOptions, ApiServer, SignedDuration};

use crate::client::{Api, CSRS, NODES, certificate, node, options, signing_request, start};

/// The whole chain of the error, as a program would log it.
async fn connection_error(api: &Api) -> String {
    let error = api.0.send(Request::get("/version").body(Body::empty()).unwrap()).await.unwrap_err();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_not_trusted() {
    let server = ApiServer::start(ApiOptions { foreign_server_certificate: true, ..options() }).await.unwrap();
    let error = connection_error(&Api::bootstrap(&server)).await;
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn a_certificate_for_other_names_is_not_trusted() {
    let names = vec!["api.example.com".to_owned()];
    let server = ApiServer::start(ApiOptions { names, ..options() }).await.unwrap();
    let error = connection_error(&Api::bootstrap(&server)).await;
    assert!(error.contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn a_server_an_hour_ahead_has_a_certificate_from_the_future() {
    let clock_offset = SignedDuration::from_hours(1);
    let server = ApiServer::start(ApiOptions { clock_offset, ..options() }).await.unwrap();
    let error = connection_error(&Api::bootstrap(&server)).await;
    assert!(error.contains("not valid yet"), "{error}");
}

#[tokio::test]
async fn a_server_two_years_behind_has_an_expired_certificate() {
    let clock_offset = SignedDuration::from_hours(-2 * 365 * 24);
    let server = ApiServer::start(ApiOptions { clock_offset, ..options() }).await.unwrap();
    let error = connection_error(&Api::bootstrap(&server)).await;
    assert!(error.contains("expired"), "{error}");
}

#[tokio::test]
async fn a_server_an_hour_behind_says_so_in_every_answer() {
    let clock_offset = SignedDuration::from_hours(-1);
    let server = ApiServer::start(ApiOptions { clock_offset, ..options() }).await.unwrap();
    let bootstrap = Api::bootstrap(&server);
    let answer = bootstrap.get("/version").await;
    let date = jiff::fmt::rfc2822::parse(&answer.date).unwrap().timestamp();
    let behind = jiff::Timestamp::now().duration_since(date);
    assert!((3599..3660).contains(&behind.as_secs()), "{behind:?}");

    bootstrap.post(CSRS, &signing_request("a", "system:node:a").0).await;
    let pem = certificate(&bootstrap.get(&format!("{CSRS}/a")).await.document);
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    let age = jiff::Timestamp::now().as_second() - pem.parse_x509().unwrap().validity().not_before.timestamp();
    assert!((3600 + 295..3600 + 360).contains(&age), "{age}");
}

#[tokio::test]
async fn node_creation_can_be_switched_off() {
    let server = ApiServer::start(ApiOptions { reject_node_creation: true, ..options() }).await.unwrap();
    let node_1 = Api::node(&server, "node-1");
    let refusal = node_1.post(NODES, &node("node-1")).await;
    assert_eq!((refusal.code, refusal.reason()), (403, "Forbidden"));
    server.set_reject_node_creation(false);
    assert_eq!(node_1.post(NODES, &node("node-1")).await.code, 201);
}

#[tokio::test]
async fn a_closed_port_refuses_and_opens_again() {
    let server = start().await;
    server.refuse_connections(Duration::from_secs(3600)).await;
    let error = connection_error(&Api::bootstrap(&server)).await;
    assert!(error.contains("refused"), "{error}");
    server.accept_connections().await;
    assert_eq!(Api::bootstrap(&server).get("/version").await.code, 200);
}

#[tokio::test]
async fn a_certificate_for_no_name_at_all_cannot_be_made() {
    let names = vec!["não".to_owned()];
    assert!(ApiServer::start(ApiOptions { names, ..ApiOptions::default() }).await.is_err());
}

#[tokio::test]
async fn secrets_do_not_stay_in_the_request_log() {
    let server = start().await;
    Api::bootstrap(&server).get("/version").await;
    Api::with(&server, AuthInfo::default()).get("/version").await;
    let text = format!("{:?}", server.requests());
    assert!(!text.contains("0123456789abcdef"), "{text}");
}
