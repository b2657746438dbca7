//! The one place that runs a program to its end, with a time limit.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::VmError;

/// How much of a failed program's standard error goes into the error text.
const QUOTED_CHARS: usize = 2000;

/// Runs `program` to its end and returns its standard output. coreutils' `timeout` holds it to `limit`.
pub(crate) fn run<A: AsRef<OsStr>>(program: &Path, arguments: &[A], limit: Duration) -> Result<Vec<u8>, VmError> {
    let mut command = Command::new("timeout");
    command.arg("--kill-after=5").arg(limit.as_secs().max(1).to_string());
    command.arg(program).args(arguments).stdin(Stdio::null());
    let start = |source| VmError::Start { program: program.display().to_string(), source };
    let output = command.output().map_err(start)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let shown: Vec<_> = arguments.iter().map(|argument| argument.as_ref().to_string_lossy()).collect();
    Err(VmError::Program {
        command: format!("{} {}", program.display(), shown.join(" ")),
        status: output.status.to_string(),
        output: tail(&String::from_utf8_lossy(&output.stderr), QUOTED_CHARS),
    })
}

/// The last `chars` characters of a text.
pub(crate) fn tail(text: &str, chars: usize) -> String {
    let skip = text.chars().count().saturating_sub(chars);
    text.chars().skip(skip).collect()
}
