//! Clients without a certificate but with a bearer token: the API server says whose it is and whether he may, and that is remembered for a while.
//!
//! On a thread of its own, because kubelet's credential is read from a disk that may hang. One question at a time, five a second, and one for each
//! address, so that who has no good token costs the API server little and keeps nobody out; meanwhile those with a certificate, or with a token
//! that is remembered, are answered.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use nap_host::reviews::{self, Review};
use nap_host::root::Root;
use nap_model::secret::SecretString;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::route::{Answer, text, too_many};

/// For so long a good word holds: who loses his right keeps it no longer.
const ALLOWED: Duration = Duration::from_secs(60);
/// And a bad one: who gets his right has it soon.
const REFUSED: Duration = Duration::from_secs(10);

/// Most tokens that are remembered.
const MAX_KNOWN: usize = 64;

/// What is behind the door: of nothing else is it asked whether anybody may.
const PATHS: [&str; 3] = ["/v1/health", "/v1/intents", "/metrics"];

/// Questions that wait, the time between two, and the longest wait for an answer.
const QUEUE: usize = 32;
const LEAST: Duration = Duration::from_millis(200);
const SLOW: Duration = Duration::from_secs(8);

/// What is asked of the API server.
struct Question {
    token: SecretString,
    verb: &'static str,
    path: String,
    answer: oneshot::Sender<Result<Review, String>>,
}

/// What it said of a token, by a digest of the token and of what it was for.
struct Known {
    key: [u8; 32],
    review: Review,
    until: Instant,
}

/// Who asks the API server.
#[derive(Clone)]
pub(super) struct Tokens {
    questions: mpsc::Sender<Question>,
    known: Arc<Mutex<Vec<Known>>>,
    /// Whose question waits.
    asking: Arc<Mutex<BTreeSet<IpAddr>>>,
}

/// One address' turn.
struct Turn<'a> {
    of: &'a Tokens,
    address: IpAddr,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.of.asking.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.address);
    }
}

impl Tokens {
    pub(super) fn start(root: Arc<Root>) -> std::io::Result<Self> {
        let (questions, mut asked) = mpsc::channel::<Question>(QUEUE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("token-review".to_owned());
        thread.spawn(move || {
            runtime.block_on(async {
                while let Some(Question { token, verb, path, answer }) = asked.recv().await {
                    if answer.is_closed() {
                        continue;
                    }
                    let review = reviews::review(&root, &token, verb, &path).await;
                    let _ = answer.send(review); // who asked has gone
                    sleep(LEAST).await;
                }
            });
        })?;
        Ok(Self { questions, known: Arc::default(), asking: Arc::default() })
    }

    /// The name of who may do this.
    ///
    /// # Errors
    /// What he gets instead.
    pub(super) async fn client(
        &self,
        address: IpAddr,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<String, Answer> {
        if !PATHS.contains(&path) {
            return Err(text(StatusCode::NOT_FOUND, format!("there are {}\n", PATHS.join(", "))));
        }
        let Some(token) = bearer(headers) else {
            return Err(unauthorized("a client certificate or a bearer token is wanted\n"));
        };
        let verb = if *method == Method::POST { "post" } else { "get" };
        let key = digest(token.reveal(), verb, path);
        let review = match self.remembered(&key) {
            Some(review) => review,
            None => {
                let Some(_turn) = self.turn(address) else {
                    return Err(too_many("another token from this address is being looked up\n"));
                };
                self.ask(token, verb, path, key).await?
            }
        };
        match review {
            Review::Allowed(name) => Ok(name),
            Review::Forbidden(name) => Err(text(StatusCode::FORBIDDEN, format!("{name} may not {verb} {path}\n"))),
            Review::Unauthorized => Err(unauthorized("the API server does not know this token\n")),
        }
    }

    fn turn(&self, address: IpAddr) -> Option<Turn<'_>> {
        let is_free = self.asking.lock().unwrap_or_else(PoisonError::into_inner).insert(address);
        is_free.then_some(Turn { of: self, address })
    }

    async fn ask(&self, token: SecretString, verb: &'static str, path: &str, key: [u8; 32]) -> Result<Review, Answer> {
        let (answer, answered) = oneshot::channel();
        let question = Question { token, verb, path: path.to_owned(), answer };
        let unanswered =
            || text(StatusCode::SERVICE_UNAVAILABLE, "the token cannot be looked up now; a client certificate can\n");
        self.questions.try_send(question).map_err(|_| unanswered())?;
        match timeout(SLOW, answered).await {
            Ok(Ok(Ok(review))) => {
                self.remember(key, &review);
                Ok(review)
            }
            Ok(Ok(Err(why))) => {
                warn!(error = why, "the API server says nothing of a client's token");
                Err(unanswered())
            }
            Ok(Err(_)) | Err(_) => Err(unanswered()),
        }
    }

    fn remembered(&self, key: &[u8; 32]) -> Option<Review> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|known| known.until > Instant::now());
        known.iter().find(|known| known.key == *key).map(|known| known.review.clone())
    }

    fn remember(&self, key: [u8; 32], review: &Review) {
        let time = if matches!(review, Review::Allowed(_)) { ALLOWED } else { REFUSED };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Bad tokens are many; good ones are not pushed out by them.
        if known.len() >= MAX_KNOWN {
            let first = known.iter().position(|known| !matches!(known.review, Review::Allowed(_))).unwrap_or_default();
            known.remove(first);
        }
        known.push(Known { key, review: review.clone(), until: Instant::now() + time });
    }
}

fn digest(token: &str, verb: &str, path: &str) -> [u8; 32] {
    // No token and no path of a request has a line break.
    Sha256::digest(format!("{token}\n{verb}\n{path}")).into()
}

/// Source: RFC 6750, 2.1.
fn bearer(headers: &HeaderMap) -> Option<SecretString> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.into())
}

fn unauthorized(why: &'static str) -> Answer {
    let mut answer = text(StatusCode::UNAUTHORIZED, why);
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    // Whoever has nothing to show keeps no place.
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> (Tokens, mpsc::Receiver<Question>) {
        let (questions, asked) = mpsc::channel(QUEUE);
        (Tokens { questions, known: Arc::default(), asking: Arc::default() }, asked)
    }

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn with(authorization: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(authorization).unwrap())])
    }

    #[tokio::test]
    async fn an_answer_is_remembered_for_its_token_and_its_path_alone() {
        let (tokens, mut asked) = tokens();
        let get = async |token: &str, path: &str| {
            let answer = tokens.client(ADDRESS, &Method::GET, path, &with(&format!("bearer {token}"))).await;
            answer.map_err(|answer| answer.status().as_u16())
        };
        let server = async {
            let mut count = 0;
            while let Some(Question { token, path, answer, .. }) = asked.recv().await {
                count += 1;
                let review = match (token.reveal(), path.as_str()) {
                    ("good", "/v1/health") => Ok(Review::Allowed("him".to_owned())),
                    ("good", _) => Ok(Review::Forbidden("him".to_owned())),
                    ("away", _) => Err("no answer in time".to_owned()),
                    _ => Ok(Review::Unauthorized),
                };
                answer.send(review).unwrap();
                if token.reveal() == "last" {
                    break;
                }
            }
            count
        };
        let client = async {
            assert_eq!(get("good", "/v1/health").await, Ok("him".to_owned()));
            assert_eq!(get("good", "/v1/health").await, Ok("him".to_owned()), "this one is remembered");
            assert_eq!(get("good", "/metrics").await, Err(403));
            assert_eq!(get("bad", "/v1/health").await, Err(401));
            assert_eq!(get("bad", "/v1/health").await, Err(401), "and this one");
            assert_eq!(get("good", "/api/1").await, Err(404), "of what is not there nobody is asked");
            let away = (get("away", "/metrics").await, get("away", "/metrics").await);
            assert_eq!(away, (Err(503), Err(503)), "this is not");
            assert_eq!(tokio::join!(get("0", "/metrics"), get("1", "/metrics")), (Err(401), Err(429)), "one at a time");
            for number in 0..2 * MAX_KNOWN {
                assert_eq!(get(&number.to_string(), "/v1/health").await, Err(401));
            }
            assert_eq!(get("good", "/v1/health").await, Ok("him".to_owned()), "nobody pushes a good one out");
            get("last", "/metrics").await.unwrap_err();
        };
        let (count, ()) = tokio::join!(server, client);
        assert_eq!(count, 3 + 2 + 1 + 2 * MAX_KNOWN + 1);
        assert!(tokens.known.lock().unwrap().len() <= MAX_KNOWN);
    }

    #[tokio::test]
    async fn who_shows_nothing_costs_the_api_server_nothing() {
        let (tokens, mut asked) = tokens();
        for authorization in ["Basic YTpi", "Bearer ", "Bearer", ""] {
            let refused = tokens.client(ADDRESS, &Method::GET, "/v1/health", &with(authorization)).await.unwrap_err();
            assert_eq!(refused.status(), 401, "{authorization}");
            assert_eq!(refused.headers()[header::WWW_AUTHENTICATE], "Bearer");
        }
        assert!(asked.try_recv().is_err());
    }
}
