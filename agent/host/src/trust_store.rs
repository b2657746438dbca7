//! The bundle of certificate authorities that programs trust.

use std::time::Duration;

use nap_model::plan::AbsPath;

use crate::cmd::{Cmd, CmdError};
use crate::root::{FileError, Root};

/// The distributions' programs hash a few hundred certificates, one process each.
const LIMIT: Duration = Duration::from_secs(60);

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
pub(crate) async fn update(root: &Root, program: &[&str]) -> Result<(), CmdError> {
    let (name, arguments) = program.split_first().expect("a row of a distribution names its program");
    Cmd::new(root.outside(name), arguments, LIMIT).output().await.map(drop)
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
}
