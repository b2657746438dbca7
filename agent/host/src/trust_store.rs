//! The bundle of certificate authorities that programs trust.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nap_model::plan::AbsPath;
use tracing::warn;

use crate::chain;
use crate::cmd::{Cmd, CmdError};
use crate::root::{FileError, Root};

/// The distributions' programs hash a few hundred certificates, one process each.
const LIMIT: Duration = Duration::from_secs(180);

/// How many of the certificates are missing in the bundle, in words; nothing when all are there.
///
/// # Errors
/// When the bundle is there and cannot be read.
pub(crate) fn difference(root: &Root, bundle: &AbsPath, certificates: &[String]) -> Result<Option<String>, FileError> {
    let text = root.read_text(bundle.as_str())?.unwrap_or_default();
    let present: Vec<String> = bodies(&text).collect();
    let missing = certificates.iter().flat_map(|pem| bodies(pem)).filter(|body| !present.contains(body)).count();
    Ok((missing > 0).then(|| format!("add {missing} certificates to {bundle}")))
}

/// Starts the distribution's program: what it makes beside the bundle (links by hash, Java's store) is its own affair.
///
/// Debian's appends to `BUNDLE.new`, and does not ask whether somebody left one: after a run that was killed in the middle the next makes
/// a bundle that has everything twice. Source: `update-ca-certificates` of ca-certificates 20230311.
pub(crate) async fn update(root: &Root, bundle: &AbsPath, program: &[&str]) -> Result<(), CmdError> {
    let (name, arguments) = program.split_first().expect("a row of a distribution names its program");
    // Nobody's run takes so long.
    remove_draft(root, bundle, LIMIT);
    let ended = Cmd::new(root.outside(name), arguments, LIMIT).output().await;
    if matches!(ended, Err(CmdError::Timeout { .. })) {
        remove_draft(root, bundle, Duration::ZERO);
    }
    ended.map(drop)
}

/// Removes what a run left that was killed, when it is at least so old.
fn remove_draft(root: &Root, bundle: &AbsPath, age: Duration) {
    let draft = AbsPath::try_from(format!("{bundle}.new").as_str()).expect("a path with more of a name");
    let Ok(Some(at)) = root.changed_at(&draft) else { return };
    if Timestamp::now().duration_since(at) >= SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX)
        && let Err(error) = root.remove(&draft)
    {
        warn!(error = chain(&error), "what a killed run left may double the bundle");
    }
}

/// The base64 of each certificate, without line ends.
fn bodies(pem: &str) -> impl Iterator<Item = String> {
    let blocks = pem.split("-----BEGIN CERTIFICATE-----").skip(1);
    blocks.filter_map(|block| {
        let (body, _) = block.split_once("-----END CERTIFICATE-----")?;
        Some(body.split_ascii_whitespace().collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_counts_as_there_however_its_lines_are_broken() {
        let pem = |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let bundle = AbsPath::literal("/bundle");
        let wanted = [pem("MAAB\nMAAC"), pem("MAAD")];
        assert_eq!(difference(&root, &bundle, &wanted).unwrap().unwrap(), "add 2 certificates to /bundle");
        root.write(&bundle, format!("# x\n{}{}", pem("MAABMAAC"), pem("ZZZZ")).as_bytes(), 0o644).unwrap();
        assert_eq!(difference(&root, &bundle, &wanted).unwrap().unwrap(), "add 1 certificates to /bundle");
        root.write(&bundle, wanted.concat().as_bytes(), 0o644).unwrap();
        assert_eq!(difference(&root, &bundle, &wanted).unwrap(), None);
    }

    #[tokio::test]
    async fn what_a_killed_run_left_does_not_come_into_the_next_bundle() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let program = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho x >>bundle.new\nmv bundle.new bundle\n";
        root.write(&AbsPath::literal("/update"), program.as_bytes(), 0o755).unwrap();
        let bundle = AbsPath::literal("/bundle");
        let run = async |age: Duration| {
            root.write(&AbsPath::literal("/bundle.new"), b"x\n", 0o644).unwrap();
            let draft = std::fs::File::options().write(true).open(directory.path().join("bundle.new")).unwrap();
            draft.set_modified(std::time::SystemTime::now() - age).unwrap();
            drop(draft);
            update(&root, &bundle, &["/update"]).await.unwrap();
            root.read_text("/bundle").unwrap().unwrap()
        };
        assert_eq!(run(LIMIT).await, "x");
        assert_eq!(run(Duration::from_secs(5)).await, "x\nx", "somebody's run of now is not disturbed");
    }
}
