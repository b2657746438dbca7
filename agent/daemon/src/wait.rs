//! `nap-agent wait`: what `aks-node-controller provision-wait` does for the custom script extension.

use std::io::Write;
use std::time::Duration;

use nap_host::wait::{Try, until};
use nap_host::{chain, observe, persist};
use nap_model::report::{ProvisionReport, Reason};

use crate::context::Context;

/// Waits for this boot's report, prints it, and returns its exit code.
pub(crate) async fn wait(context: &Context, limit: Duration, out: &mut impl Write) -> anyhow::Result<u8> {
    let boot_id = observe::boot_id(&context.root)?;
    let report = until("the end of the boot", limit, || async { finished(context, &boot_id) }).await;
    match report {
        Ok(report) => {
            writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
            Ok(report.exit_code.parse().unwrap_or(1))
        }
        Err(why) => {
            tracing::error!(limit_s = limit.as_secs(), error = why, "the boot has not ended in time");
            Ok(Reason::BootDeadlineExceeded.exit_code())
        }
    }
}

/// The exit code of this machine boot's report, when there is one.
pub(crate) fn ended(context: &Context) -> anyhow::Result<Option<u8>> {
    let boot_id = observe::boot_id(&context.root)?;
    Ok(match finished(context, &boot_id) {
        Try::Done(report) => Some(report.exit_code.parse().unwrap_or(1)),
        Try::Again(_) | Try::Stop(_) => None,
    })
}

fn finished(context: &Context, boot_id: &str) -> Try<ProvisionReport, String> {
    match persist::read_complete_report(&context.root) {
        // A report of an earlier boot, or of an image that was captured with one, is not about this boot.
        Ok(Some(report)) if report.boot_id == boot_id => Try::Done(report),
        Ok(Some(_)) => Try::Again("the report is an earlier boot's".to_owned()),
        Ok(None) => Try::Again("no report yet".to_owned()),
        Err(error) => Try::Again(chain(&error)),
    }
}
