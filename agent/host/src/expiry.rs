//! Password and account expiry of one user, in `/etc/shadow`.

use std::time::Duration;

use crate::cmd::{Cmd, CmdError};
use crate::root::{FileError, Root};

const SHADOW: &str = "/etc/shadow";

/// The largest age that chage knows, in days: "never".
const NEVER_DAYS: &str = "99999";

/// What of the user expires, in words; nothing when nothing does. Shows no other field of the line.
///
/// # Errors
/// When `/etc/shadow` cannot be read.
pub(crate) fn difference(root: &Root, user: &str) -> Result<Option<String>, FileError> {
    let shadow = root.read_text(SHADOW)?.unwrap_or_default();
    let line = shadow.lines().find(|line| line.split(':').next() == Some(user));
    // cloud-init makes the user while we boot; who is not there does not expire, and the guard looks again.
    let Some(line) = line else { return Ok(None) };
    let fields: Vec<&str> = line.split(':').collect();
    // name:password:changed:min:max:warn:inactive:expire. Source: shadow(5).
    let field = |at: usize| fields.get(at).copied().unwrap_or_default();
    let never = |at: usize| matches!(field(at), "" | "-1");
    let expires = [
        (!matches!(field(3), "" | "0"), "a password must be kept for days"),
        (!(never(4) || field(4) == NEVER_DAYS), "the password expires"),
        (!never(6), "an expired password locks the account"),
        (!never(7), "the account expires"),
    ];
    let found: Vec<&str> = expires.iter().filter(|(is, _)| *is).map(|(_, what)| *what).collect();
    Ok((!found.is_empty()).then(|| format!("let {user} never expire: {}", found.join(", "))))
}

/// chage takes the locks that every writer of `/etc/shadow` takes; there is no library for that.
pub(crate) async fn never(root: &Root, user: &str) -> Result<(), CmdError> {
    let arguments = ["-E", "-1", "-I", "-1", "-m", "0", "-M", NEVER_DAYS, "--", user];
    Cmd::new(root.outside("/usr/bin/chage"), &arguments, Duration::from_secs(10)).output().await.map(drop)
}

#[cfg(test)]
mod tests {
    use nap_model::plan::AbsPath;

    use super::*;

    #[test]
    fn each_way_to_expire_is_seen_and_no_hash_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let write =
            |line: &str| root.write(&AbsPath::literal(SHADOW), format!("root:*::::::\n{line}\n").as_bytes(), 0o640);
        write("azureuser:$6$hash:20000:0:99999:7:::").unwrap();
        assert_eq!(difference(&root, "azureuser").unwrap(), None);
        write("azureuser:$6$hash:20000:1:90:7:30:21000:").unwrap();
        let found = difference(&root, "azureuser").unwrap().unwrap();
        assert_eq!(found.matches(", ").count(), 3, "{found}");
        assert!(!found.contains("hash"));
        assert_eq!(difference(&root, "later").unwrap(), None);
    }
}
