//! Asks a snapshotter of containerd's kind, over its own socket, whether it works.
//!
//! Not through containerd: that lists from its own books, and says that all is well while nobody is behind the socket
//! (`facts/disks-imds-streaming.md` 5.3, case F).

use std::path::Path;
use std::time::Duration;

use nap_model::monitor::{ImagesSeen, NoAnswer};
use nap_model::plan::AbsPath;
use tokio::time::timeout;

use crate::grpc::{self, CallError, NOT_FOUND};
use crate::images;
use crate::root::Root;
use crate::wait::{Try, until};

/// Longest time for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// The same for the watch, which asks on a machine that has work to do.
const WATCH_LIMIT: Duration = Duration::from_secs(5);

/// Longest wait for one that is just starting: a Go program that opens a database.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(15);

/// A snapshot that nobody has: to look for it is to look into the books, and changes nothing.
const NOBODYS: &str = "nap-agent/probe";

/// `containerd.services.snapshots.v1.Snapshots/Stat`. Source: containerd, `api/services/snapshots/v1/snapshots.proto`.
const STAT: &str = "containerd.services.snapshots.v1.Snapshots/Stat";

/// Largest answer that is read, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// Asks for a snapshot that is not there. Only "not found" is right: whoever cannot read its books says something else.
///
/// # Errors
/// When it does not say so within `limit`.
pub async fn ask(socket: &Path, limit: Duration) -> Result<(), NoAnswer> {
    // StatSnapshotRequest{snapshotter: 1, key: 2}; a proxied one serves a single snapshotter and does not look at its name.
    let message = grpc::text_field(2, NOBODYS);
    match timeout(limit, grpc::call(socket, STAT, &message, MAX_BODY)).await {
        Err(_) => Err(NoAnswer::Late),
        Ok(Err(CallError::Status { code: NOT_FOUND, .. })) => Ok(()),
        Ok(Err(CallError::Refused(why))) => Err(NoAnswer::Refused(why)),
        Ok(Err(error)) => Err(NoAnswer::Bad(error.to_string())),
        Ok(Ok(_)) => Err(NoAnswer::Bad(format!("it has a snapshot {NOBODYS}, which nobody made"))),
    }
}

/// Asks it for the watch, and counts containerd's images while it answers.
pub(crate) async fn look(socket: &Path, containerd: &Path) -> (Result<(), String>, Option<ImagesSeen>) {
    let answer = ask(socket, WATCH_LIMIT).await.map_err(|why| in_words(&why));
    let images = match &answer {
        // A containerd that does not answer is another monitor's.
        Ok(()) => images::count(containerd).await.ok(),
        Err(_) => None,
    };
    (answer, images)
}

/// What is wrong with it; nothing when it answers as it should.
pub(crate) async fn difference(root: &Root, socket: &AbsPath) -> Option<String> {
    let answer = ask(&root.outside(socket.as_str()), ANSWER_LIMIT).await;
    answer.err().map(|why| format!("wait for {socket}: {}", in_words(&why)))
}

/// Waits until it answers as it should.
///
/// # Errors
/// What was wrong last, when it does not within `limit`.
pub async fn answers(root: &Root, socket: &str, limit: Duration) -> Result<(), String> {
    let path = root.outside(socket);
    until("the snapshotter's socket", limit, || async {
        match ask(&path, ANSWER_LIMIT).await {
            Ok(()) => Try::Done(()),
            Err(why) => Try::Again(format!("{socket}: {}", in_words(&why))),
        }
    })
    .await
}

fn in_words(why: &NoAnswer) -> String {
    match why {
        NoAnswer::Refused(why) => format!("nobody listens ({why})"),
        NoAnswer::Late => "it takes the question and gives no answer".to_owned(),
        NoAnswer::Bad(what) => what.clone(),
    }
}
