//! Pulls images before pods ask for them: a few at a time, through the CRI, so they are kubelet's own as if it had pulled them.
//!
//! An image that is there is not asked for again. Credentials come from where kubelet has them: the program that its configuration names for
//! the image. kubelet removes images that no pod uses when the disk runs full, these among them.
//! Source: kubernetes/cri-api, `runtime/v1/api.proto`; k8s.io/kubelet/pkg/apis/credentialprovider/v1.

use std::sync::Arc;
use std::time::Duration;

use nap_model::os::CREDENTIAL_PROVIDER;
use nap_model::plan::{CREDENTIAL_PROVIDER_CONFIG, matches_image};
use nap_model::secret::SecretString;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::chain;
use crate::cmd::Cmd;
use crate::grpc::{self, message_field, text_field};
use crate::root::Root;
use crate::watch::CONTAINERD_SOCKET;

/// Longest pull of one image: 100 GB at 1 Gbit/s take a quarter of an hour.
const PULL_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Longest time for one of the quick answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// kubelet's own limit for the program. Source: `pluginExecTimeout`, pkg/credentialprovider/plugin of Kubernetes.
const PROVIDER_LIMIT: Duration = Duration::from_secs(60);

/// Pauses before another try.
const AGAIN_AFTER: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120)];

/// What the program is told by its environment, as kubelet's would: where its cloud is, and the proxy.
const PROVIDER_VARIABLES: &[&str] = &["AZURE_ENVIRONMENT_FILEPATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

const MAX_ANSWER: usize = 1 << 20;

/// How the pulls of a list ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pulls {
    /// Pulled now.
    pub pulled: usize,
    /// Were there.
    pub present: usize,
    /// Could not be pulled; the log says why.
    pub failed: usize,
}

/// Pulls images, `parallel` at a time, in the order of the list. One that cannot be pulled does not keep the others.
pub async fn pull_all(root: &Arc<Root>, images: &[String], parallel: usize) -> Pulls {
    let turns = Arc::new(Semaphore::new(parallel.max(1)));
    let mut running = JoinSet::new();
    for (number, image) in images.iter().cloned().enumerate() {
        let (root, turns) = (Arc::clone(root), Arc::clone(&turns));
        let number = format!("{} of {}", number + 1, images.len());
        running.spawn(async move { pull(&root, &image, &number, &turns).await });
    }
    let mut pulls = Pulls::default();
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(Ok(true)) => pulls.pulled += 1,
            Ok(Ok(false)) => pulls.present += 1,
            Ok(Err(())) | Err(_) => pulls.failed += 1,
        }
    }
    pulls
}

/// Whether it had to be pulled.
async fn pull(root: &Root, image: &str, number: &str, turns: &Semaphore) -> Result<bool, ()> {
    for pause in AGAIN_AFTER.map(Some).into_iter().chain([None]) {
        let turn = turns.acquire().await.expect("nobody closes it");
        let start = Instant::now();
        info!(image, number, "pulling");
        match try_pull(root, image).await {
            Ok(was_pulled) => {
                info!(image, number, was_pulled, took_ms = start.elapsed().as_millis(), "image is there");
                return Ok(was_pulled);
            }
            Err(error) => warn!(image, number, error, again_in_s = pause.map(|pause| pause.as_secs()), "cannot pull"),
        }
        drop(turn); // others go on meanwhile
        sleep(pause.ok_or(())?).await;
    }
    Err(())
}

async fn try_pull(root: &Root, image: &str) -> Result<bool, String> {
    let spec = message_field(1, &text_field(1, image));
    // ImageStatusRequest{image: 1 ImageSpec{image: 1}}, ImageStatusResponse{image: 1}
    let status = ask(root, "ImageStatus", &spec, ANSWER_LIMIT).await?;
    let fields = grpc::fields(&status).ok_or("containerd's answer about an image cannot be read")?;
    if fields.iter().any(|(number, _)| *number == 1) {
        return Ok(false);
    }
    // PullImageRequest{image: 1 ImageSpec, auth: 2 AuthConfig{username: 1, password: 2}}
    let auth = credentials(root, image).await.unwrap_or_else(|error| {
        warn!(image, error, "no credentials; pulling without");
        None
    });
    let auth = match auth {
        Some(auth) => [text_field(1, auth.username.reveal()), text_field(2, auth.password.reveal())].concat(),
        None => Vec::new(),
    };
    let auth = if auth.is_empty() { auth } else { message_field(2, &auth) };
    ask(root, "PullImage", &[spec, auth].concat(), PULL_LIMIT).await?;
    Ok(true)
}

async fn ask(root: &Root, method: &str, message: &[u8], limit: Duration) -> Result<hyper::body::Bytes, String> {
    let (socket, method) = (root.outside(CONTAINERD_SOCKET), format!("ImageService/{method}"));
    grpc::ask_cri(&socket, &method, message, (MAX_ANSWER, limit)).await
}

#[derive(Deserialize)]
struct Auth {
    username: SecretString,
    password: SecretString,
}

/// What the program says that kubelet would ask for this image; nothing when there is none for it.
async fn credentials(root: &Root, image: &str) -> Result<Option<Auth>, String> {
    let config = root.read(CREDENTIAL_PROVIDER_CONFIG).map_err(|error| chain(&error))?;
    let config: Json = serde_json::from_slice(&config.unwrap_or_default()).unwrap_or_default(); // none, or somebody else's
    let texts = |list: &Json| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let of_image =
        |provider: &&Json| texts(&provider["matchImages"]).iter().any(|pattern| matches_image(pattern, image));
    let Some(provider) = config["providers"].as_array().into_iter().flatten().find(of_image) else { return Ok(None) };
    let arguments = texts(&provider["args"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let question = json!({"apiVersion": provider["apiVersion"], "kind": "CredentialProviderRequest", "image": image});
    let program = Cmd::new(root.outside(CREDENTIAL_PROVIDER), &arguments, PROVIDER_LIMIT);
    let answer = program.keeping(PROVIDER_VARIABLES).output_for(format!("{question}\n")).await;
    let answer = answer.map_err(|error| chain(&error))?;
    // Whatever is wrong with it, it is not shown: it may be a password.
    auth_of(&answer, image).ok_or_else(|| format!("{CREDENTIAL_PROVIDER} gave an answer that is none"))
}

/// The credentials for an image; nothing within when the program has none for it, and nothing at all when that is no answer.
fn auth_of(answer: &str, image: &str) -> Option<Option<Auth>> {
    let mut answer: Json = serde_json::from_str(answer).ok()?;
    let auth = answer.get_mut("auth")?.take();
    let Json::Object(auth) = auth else { return auth.is_null().then_some(None) };
    // kubelet's order, by which a longer path and a name come before a shorter one and a star. Source: `BasicDockerKeyring.Add`.
    let matching = auth.into_iter().filter(|(pattern, _)| matches_image(pattern, image));
    let first = matching.max_by(|(one, _), (other, _)| one.cmp(other));
    first.map_or(Some(None), |(_, auth)| serde_json::from_value(auth).ok().map(Some))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(answer: &str) -> Option<Option<String>> {
        auth_of(answer, "r.azurecr.io/app:1").map(|auth| auth.map(|auth| auth.username.reveal().to_owned()))
    }

    #[test]
    fn the_most_special_credentials_for_an_image_are_taken() {
        let auth = |patterns: &[&str]| {
            let auth: serde_json::Map<String, Json> = patterns
                .iter()
                .map(|pattern| ((*pattern).to_owned(), json!({"username": pattern, "password": "p"})))
                .collect();
            user(&json!({"auth": auth}).to_string())
        };
        assert_eq!(
            auth(&["*.azurecr.io", "r.azurecr.io", "r.azurecr.io/other"]),
            Some(Some("r.azurecr.io".to_owned()))
        );
        assert_eq!(auth(&["docker.example"]), Some(None));
        assert_eq!(user(r#"{"auth": null}"#), Some(None));
        for broken in ["", "{}", "[]", r#"{"auth": 7}"#, r#"{"auth": {"*.azurecr.io": {"username": 1}}}"#] {
            assert_eq!(user(broken), None, "{broken}");
        }
    }
}
