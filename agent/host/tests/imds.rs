//! The IMDS client against the pretend IMDS and every fault it can have.

use std::time::{Duration, Instant};

use nap_host::imds::{Imds, ImdsError};
use pretend_azure::{ANY_PORT, BlackHole, Fault, Imds as PretendImds, ImdsOptions, Instance, busiest_second};

const LIMIT: Duration = Duration::from_secs(20);

async fn pretend(faults: Vec<Fault>) -> (PretendImds, Imds) {
    let server = PretendImds::start(ANY_PORT, Instance::default()).await.unwrap();
    server.set_faults(faults).await;
    let client = Imds::new(&server.url()).unwrap();
    (server, client)
}

#[tokio::test]
async fn the_instance_is_read() {
    let (server, client) = pretend(vec![]).await;
    let wanted = Instance::default();
    let instance = client.instance(LIMIT).await.unwrap();
    assert_eq!((instance.name, instance.vm_id), (wanted.name, wanted.vm_id));
    assert!(instance.resource_id.starts_with("/subscriptions/"));
    assert_eq!(instance.interfaces.len(), wanted.interfaces.len());
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].header("metadata"), Some("true"));
}

#[tokio::test]
async fn every_transient_answer_is_tried_again_at_two_requests_a_second() {
    let transient = [404, 408, 500, 502, 503, 504].map(|status| Fault::Status(status, None));
    let more =
        [Fault::BadJson, Fault::EmptyBody, Fault::ResetMidBody, Fault::HugeBody, Fault::TooManyRequests(Some(1))];
    let faults: Vec<_> = transient.into_iter().chain(more).collect();
    let count = faults.len();
    let (server, client) = pretend(faults).await;
    client.instance(LIMIT).await.unwrap();
    let requests = server.requests();
    assert_eq!(requests.len(), count + 1);
    assert!(busiest_second(&requests) <= 2, "{}", busiest_second(&requests));
}

#[tokio::test]
async fn a_host_update_of_410_is_waited_out() {
    let (server, client) = pretend(vec![Fault::Gone(Duration::from_secs(3))]).await;
    client.instance(LIMIT).await.unwrap();
    assert!(server.requests().len() <= 4, "{} requests", server.requests().len());
}

#[tokio::test]
async fn an_old_azure_stack_is_asked_in_its_own_version() {
    let options = ImdsOptions { api_versions: vec!["2019-06-01"], ..ImdsOptions::default() };
    let server = PretendImds::start_with(ANY_PORT, Instance::default(), options).await.unwrap();
    let instance = Imds::new(&server.url()).unwrap().instance(LIMIT).await.unwrap();
    assert_eq!(instance.name, Instance::default().name);
}

#[tokio::test]
async fn what_is_refused_is_not_asked_again() {
    for status in [400, 403, 405] {
        let (server, client) = pretend(vec![Fault::Forever(Box::new(Fault::Status(status, None)))]).await;
        let error = client.instance(LIMIT).await.unwrap_err();
        assert!(matches!(error, ImdsError::Refused { .. }), "{error}");
        assert!(server.requests().len() <= 2, "{status}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = PretendImds::start(ANY_PORT, Instance::default()).await.unwrap();
    let (_server, client) = pretend(vec![Fault::Forever(Box::new(Fault::Redirect(elsewhere.url())))]).await;
    assert!(client.instance(LIMIT).await.is_err());
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn a_black_hole_and_a_server_that_hangs_end_at_the_limit() {
    let hole = BlackHole::start().await.unwrap();
    let hanging = pretend(vec![Fault::Forever(Box::new(Fault::AcceptAndHang))]).await;
    let limit = Duration::from_secs(3);
    for client in [Imds::new(&format!("http://{}", hole.address())).unwrap(), hanging.1] {
        let start = Instant::now();
        let error = client.instance(limit).await.unwrap_err();
        assert!(matches!(error, ImdsError::Unreachable { .. }), "{error}");
        assert!(start.elapsed() < limit + Duration::from_secs(3), "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn user_data_comes_as_it_was_sent() {
    let instance = Instance { user_data: b"apiVersion: nap-agent/v1".to_vec(), ..Instance::default() };
    let server = PretendImds::start(ANY_PORT, instance).await.unwrap();
    let text = Imds::new(&server.url()).unwrap().compute_text("userData", LIMIT).await.unwrap();
    assert_eq!(text, b"YXBpVmVyc2lvbjogbmFwLWFnZW50L3Yx");
}

#[test]
fn what_is_no_url_is_refused() {
    for url in ["", "169.254.169.254", "https://169.254.169.254", "http://"] {
        assert!(Imds::new(url).is_err(), "{url}");
    }
}
