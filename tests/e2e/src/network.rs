//! Tests in a network of their own.

use std::io::Write as _;
use std::process::Command;

/// Set inside.
const INSIDE: &str = "NAP_OWN_NETWORK";

/// Runs the test `name` of this executable in a network of its own that `setup`, a line of shell, has prepared: it starts itself again
/// below `unshare --net`, which needs root and iproute2.
///
/// Where that may not be, the test is skipped and says so past the harness, which swallows what is printed; under CI it fails instead.
///
/// # Panics
/// When the test fails inside, or cannot run and `CI` is set.
pub fn in_own_network(name: &str, setup: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let unshared = |then: &str| {
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sh", "-c", &format!("{setup} && {then}"), "sh"]);
        command
    };
    let why = match unshared("true").output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare: {error}")),
    };
    if let Some(why) = why {
        let skipped = format!("SKIPPED {name}: a network of its own needs root, unshare and ip: {why}");
        assert!(std::env::var_os("CI").is_none(), "{skipped}");
        let _ = writeln!(std::io::stderr(), "{skipped}"); // nobody listens: nobody needs to know
        return;
    }
    let this = std::env::current_exe().expect("a test knows its own path");
    let mut again = unshared("exec \"$@\"");
    again.arg(this).args(["--exact", name, "--nocapture"]).env(INSIDE, "1");
    let output = again.output().expect("it was started a moment ago");
    // For who asked for it by `--nocapture`.
    print(&String::from_utf8_lossy(&output.stdout));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[expect(clippy::print_stdout, reason = "it was a test that printed it")]
fn print(text: &str) {
    println!("{}", text.trim());
}
