//! Whose a bearer token is, and whether he may: asked of the API server under kubelet's identity, whose role has both questions.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use nap_model::secret::SecretString;
use tokio::time::timeout;

use crate::api;
use crate::root::Root;

/// Whom a token must be for: one that is for the API server would be a key to it in the hands of every node that is asked.
pub const AUDIENCE: &str = "node-health";

/// For both questions together.
const LIMIT: Duration = Duration::from_secs(5);

/// What the API server says of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Review {
    /// He may; his name.
    Allowed(String),
    /// It knows him, and he may not; his name.
    Forbidden(String),
    /// It does not know the token.
    Unauthorized,
}

/// Whether whoever has this token may do that to this path. A path is no object of the cluster: a ClusterRole names it in its
/// `nonResourceURLs`, and `verb` is an HTTP method in small letters.
///
/// # Errors
/// When the API server does not answer, or not to kubelet; why, for people. Never the token.
pub async fn review(root: &Root, token: &SecretString, verb: &str, path: &str) -> Result<Review, String> {
    let asked = async {
        let client = api::client(root).await.map_err(|error| crate::chain(&error))?;
        match whose(&client, token).await? {
            Some(user) => may(&client, user, verb, path).await,
            None => Ok(Review::Unauthorized),
        }
    };
    timeout(LIMIT, asked).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

async fn whose(client: &Client, token: &SecretString) -> Result<Option<UserInfo>, String> {
    let audiences = Some(vec![AUDIENCE.to_owned()]);
    let spec = TokenReviewSpec { token: token.reveal().to_owned(), audiences };
    let review = TokenReview { spec, ..TokenReview::default() };
    let answer = Api::<TokenReview>::all(client.clone()).create(&PostParams::default(), &review).await;
    let status = answer.map_err(|error| refusal(&error))?.status.unwrap_or_default();
    // An authenticator that knows no audiences says none.
    let is_for_us = status.audiences.is_some_and(|audiences| audiences.iter().any(|audience| audience == AUDIENCE));
    Ok(status.user.filter(|_| status.authenticated == Some(true) && is_for_us))
}

async fn may(client: &Client, user: UserInfo, verb: &str, path: &str) -> Result<Review, String> {
    let name = user.username.unwrap_or_default();
    let attributes = NonResourceAttributes { path: Some(path.to_owned()), verb: Some(verb.to_owned()) };
    let spec = SubjectAccessReviewSpec {
        user: Some(name.clone()),
        groups: user.groups,
        uid: user.uid,
        extra: user.extra,
        non_resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let answer = Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await;
    let status = answer.map_err(|error| refusal(&error))?.status.unwrap_or_default();
    // Who says no by a rule has the last word over who says yes.
    let is_allowed = status.allowed && status.denied != Some(true);
    Ok(if is_allowed { Review::Allowed(name) } else { Review::Forbidden(name) })
}

fn refusal(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} {}", status.code, status.message),
        other => crate::chain(other),
    }
}
