//! Azure's instance metadata service.
//!
//! Policy (`facts/disks-imds-streaming.md` 6.2): never through a proxy, no redirects, short connect timeout, every transient answer of
//! the documented set is tried again with jitter, at most two requests a second, because five are shared by everyone on the VM.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use nap_model::facts::Instance;
use nap_model::monitor::ScheduledEvent;
use reqwest::{Client, Response, StatusCode, header, redirect};
use serde_json::Value;
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info};

use crate::random;

/// The address that every Azure VM has.
pub const DEFAULT_URL: &str = "http://169.254.169.254";

/// Version with all we need (encryption at host came with it), and the one that old Azure Stacks have.
const API_VERSIONS: [&str; 2] = ["2021-11-01", "2019-06-01"];

/// Version of the scheduled events, with their durations and sources.
const EVENTS_API_VERSION: &str = "2020-07-01";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Time for one request: short for the first tries, in case one packet was lost.
const REQUEST_TIMEOUTS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(5)];

const QUICK_TRIES: u32 = 3;

/// Least time between two requests.
const PACE: Duration = Duration::from_millis(500);

const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(2);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(10);

/// Largest body, in bytes: 64 KiB of user data as base64, and tags.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// How often a wait says what it is waiting for.
const REMIND_EVERY: Duration = Duration::from_secs(15);

/// Why IMDS gave no answer.
#[derive(Debug, Error)]
pub enum ImdsError {
    /// The URL we were given is none.
    #[error("{0} is no URL of an IMDS")]
    Url(String),
    /// It refused, and asking again would change nothing.
    #[error("IMDS refused {path}: {status} {body}")]
    Refused {
        /// What was asked for.
        path: &'static str,
        /// Its answer.
        status: StatusCode,
        /// The start of its body.
        body: String,
    },
    /// It did not give a good answer in time.
    #[error("IMDS gave no good answer to {path} within {limit:?} and {tries} tries; the last: {last}")]
    Unreachable {
        /// What was asked for.
        path: &'static str,
        /// The time there was.
        limit: Duration,
        /// How often it was tried.
        tries: u32,
        /// What went wrong the last time.
        last: String,
    },
}

/// A client of one IMDS.
#[derive(Debug)]
pub struct Imds {
    http: Client,
    base: String,
    next_request: Mutex<Instant>,
    requests: AtomicU32,
}

/// What to do with an answer.
enum Answer {
    Good(Vec<u8>),
    Again { reason: String, not_before: Duration },
    Refused(StatusCode, String),
}

impl Imds {
    /// A client of the IMDS at a base URL such as [`DEFAULT_URL`].
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(base: &str) -> Result<Self, ImdsError> {
        let url = reqwest::Url::parse(base).ok().filter(|url| url.scheme() == "http" && url.has_host());
        let url = url.ok_or_else(|| ImdsError::Url(base.to_owned()))?;
        let client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(0)
            .http1_only()
            .user_agent(concat!("nap-agent/", env!("CARGO_PKG_VERSION")));
        let http = client.build().map_err(|_| ImdsError::Url(base.to_owned()))?;
        Ok(Self {
            http,
            base: url.as_str().trim_end_matches('/').to_owned(),
            next_request: Mutex::new(Instant::now()),
            requests: AtomicU32::new(0),
        })
    }

    /// How many requests were made.
    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// The instance document's part that the agent uses.
    ///
    /// # Errors
    /// When IMDS refuses or gives no good answer within `limit`; with a limit of 0 it is asked once.
    pub async fn instance(&self, limit: Duration) -> Result<Instance, ImdsError> {
        let is_good =
            |body: &[u8]| serde_json::from_slice::<Value>(body).is_ok_and(|document| document["compute"].is_object());
        let query = |version: &str| format!("/metadata/instance?api-version={version}&extended=true");
        let body = self.get_any_version("/metadata/instance", query, is_good, limit).await?;
        Ok(instance(&serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// What the platform announces for a VM, and by how many seconds our clock is ahead of the host's. Asked once, without trying again:
    /// whoever polls asks again anyway. The first question of a VM's life may take two minutes.
    ///
    /// # Errors
    /// What came instead of a list of events.
    pub async fn scheduled_events(&self, vm_name: &str) -> Result<(Vec<ScheduledEvent>, Option<i64>), String> {
        self.wait_for_turn().await;
        let url = format!("{}/metadata/scheduledevents?api-version={EVENTS_API_VERSION}", self.base);
        let request = self.http.get(url).header("Metadata", "true").timeout(REQUEST_TIMEOUTS[0]);
        self.requests.fetch_add(1, Ordering::Relaxed);
        let response = request.send().await.map_err(|error| crate::chain(&error))?;
        let status = response.status();
        let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok()).and_then(http_date);
        let ahead = date.map(|date| Timestamp::now().as_second() - date.as_second());
        let body = bounded_body(response).await?;
        if status != StatusCode::OK {
            return Err(format!("{status}"));
        }
        let document: Value = serde_json::from_slice(&body).map_err(|error| format!("no list of events: {error}"))?;
        let list = document["Events"].as_array().ok_or("no list of events")?;
        Ok((list.iter().filter(|event| concerns(event, vm_name)).filter_map(scheduled_event).collect(), ahead))
    }

    /// A text of the compute section, such as `userData`; empty when there is none.
    ///
    /// # Errors
    /// As [`Imds::instance`].
    pub async fn compute_text(&self, name: &'static str, limit: Duration) -> Result<Vec<u8>, ImdsError> {
        let query = |version: &str| format!("/metadata/instance/compute/{name}?api-version={version}&format=text");
        self.get_any_version(name, query, |_| true, limit).await
    }

    async fn get_any_version(
        &self,
        path: &'static str,
        query: impl Fn(&str) -> String,
        is_good: impl Fn(&[u8]) -> bool,
        limit: Duration,
    ) -> Result<Vec<u8>, ImdsError> {
        let [newest, oldest] = API_VERSIONS;
        match self.get(path, &query(newest), &is_good, limit).await {
            Err(ImdsError::Refused { status: StatusCode::BAD_REQUEST, .. }) => {
                self.get(path, &query(oldest), &is_good, limit).await
            }
            other => other,
        }
    }

    async fn get(
        &self,
        path: &'static str,
        query: &str,
        is_good: &impl Fn(&[u8]) -> bool,
        limit: Duration,
    ) -> Result<Vec<u8>, ImdsError> {
        let start = Instant::now();
        let mut reminded = start;
        let mut delay = FIRST_DELAY;
        let mut tries = 0;
        loop {
            tries += 1;
            let (reason, not_before) = match self.try_once(query, is_good, tries).await {
                Answer::Good(body) => return Ok(body),
                Answer::Refused(status, body) => return Err(ImdsError::Refused { path, status, body }),
                Answer::Again { reason, not_before } => (reason, not_before),
            };
            let pause = random::about(delay, 0.5).max(not_before);
            if start.elapsed() + pause > limit {
                return Err(ImdsError::Unreachable { path, limit, tries, last: reason });
            }
            if reminded.elapsed() >= REMIND_EVERY {
                reminded = Instant::now();
                info!(
                    what = "IMDS",
                    waited_s = start.elapsed().as_secs(),
                    limit_s = limit.as_secs(),
                    error = reason,
                    "still waiting"
                );
            }
            debug!(tries, error = reason, "IMDS will be asked again");
            sleep(pause).await;
            delay = MAX_DELAY.min(delay * 2);
        }
    }

    async fn try_once(&self, query: &str, is_good: &impl Fn(&[u8]) -> bool, tries: u32) -> Answer {
        self.wait_for_turn().await;
        let timeout = REQUEST_TIMEOUTS[usize::from(tries > QUICK_TRIES)];
        let request = self.http.get(format!("{}{query}", self.base)).header("Metadata", "true").timeout(timeout);
        self.requests.fetch_add(1, Ordering::Relaxed);
        let again = |reason: String| Answer::Again { reason, not_before: Duration::ZERO };
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return again(crate::chain(&error)),
        };
        let status = response.status();
        let retry_after = retry_after(&response);
        let body = match bounded_body(response).await {
            Ok(body) => body,
            Err(reason) => return again(reason),
        };
        match status.as_u16() {
            200 if is_good(&body) => Answer::Good(body),
            200 => again(format!("an answer of {} bytes that is no instance document", body.len())),
            410 => Answer::Again { reason: "410 Gone".to_owned(), not_before: MAX_DELAY },
            429 => Answer::Again {
                reason: "429 Too Many Requests".to_owned(),
                not_before: retry_after.unwrap_or(Duration::from_secs(1)),
            },
            404 | 408 | 500..=599 => {
                Answer::Again { reason: status.to_string(), not_before: retry_after.unwrap_or_default() }
            }
            _ => Answer::Refused(status, String::from_utf8_lossy(&body).chars().take(120).collect()),
        }
    }

    async fn wait_for_turn(&self) {
        let mut next = self.next_request.lock().await;
        sleep_until(*next).await;
        *next = Instant::now() + PACE;
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

async fn bounded_body(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| crate::chain(&error))? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BODY_BYTES {
            return Err(format!("a body of more than {MAX_BODY_BYTES} bytes"));
        }
    }
    Ok(body)
}

fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text).ok().map(|date| date.timestamp())
}

/// IMDS tells of every VM that shares a placement with ours; only what names this one is ours.
fn concerns(event: &Value, vm_name: &str) -> bool {
    let names = event["Resources"].as_array().into_iter().flatten();
    names.filter_map(Value::as_str).any(|name| name.eq_ignore_ascii_case(vm_name))
}

fn scheduled_event(event: &Value) -> Option<ScheduledEvent> {
    let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    Some(ScheduledEvent {
        id: event["EventId"].as_str()?.to_owned(),
        kind: event["EventType"].as_str()?.to_owned(),
        not_before: event["NotBefore"].as_str().and_then(http_date),
        source: text("EventSource"),
        has_started: event["EventStatus"] == "Started",
    })
}

fn instance(document: &Value) -> Instance {
    let compute = &document["compute"];
    let text = |name: &str| compute[name].as_str().unwrap_or_default().to_owned();
    let interfaces = document["network"]["interface"].as_array().into_iter().flatten();
    let addresses = |interface: &Value, family: &str| -> Vec<IpAddr> {
        let addresses = interface[family]["ipAddress"].as_array().into_iter().flatten();
        addresses.filter_map(|address| address["privateIpAddress"].as_str()?.parse().ok()).collect()
    };
    Instance {
        name: text("name"),
        vm_id: text("vmId"),
        resource_id: text("resourceId"),
        location: text("location"),
        vm_size: text("vmSize"),
        zone: text("zone"),
        // A real boolean today; a text in an emulator.
        has_custom_data: match &document["extended"]["compute"]["hasCustomData"] {
            Value::Bool(has) => *has,
            other => other.as_str() == Some("true"),
        },
        tags: tags(compute),
        secure_boot: flag(&compute["securityProfile"]["secureBootEnabled"]),
        vtpm: flag(&compute["securityProfile"]["virtualTpmEnabled"]),
        encryption_at_host: flag(&compute["securityProfile"]["encryptionAtHost"]),
        os_disk_gb: number(&compute["storageProfile"]["osDisk"]["diskSizeGB"]),
        interfaces: interfaces
            .filter_map(|interface| {
                let mac = interface["macAddress"].as_str()?.to_owned();
                Some((mac, [addresses(interface, "ipv4"), addresses(interface, "ipv6")].concat()))
            })
            .collect(),
    }
}

/// `tagsList` keeps what `tags` cannot: values with semicolons.
fn tags(compute: &Value) -> BTreeMap<String, String> {
    let list = compute["tagsList"].as_array().into_iter().flatten();
    list.filter_map(|tag| Some((tag["name"].as_str()?.to_owned(), tag["value"].as_str()?.to_owned()))).collect()
}

/// IMDS writes booleans as texts, and an empty text where it does not know.
fn flag(value: &Value) -> Option<bool> {
    value.as_bool().or_else(|| value.as_str()?.to_ascii_lowercase().parse().ok())
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok()).or_else(|| value.as_str()?.parse().ok())
}
