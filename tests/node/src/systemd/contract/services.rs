//! Checks of services: their jobs, processes, failures and restarts.

use super::Bench;
use super::client::{CheckError, SERVICE, same};
use zbus::zvariant::OwnedObjectPath;

const SLEEP: &str = "[Service]\nExecStart=/bin/sleep 1000\n";

/// Source: signal(7), on amd64 and arm64.
const SIGUSR1: i32 = 10;
const SIGSTOP: i32 = 19;

pub(super) async fn a_service_starts_and_stops(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = bench.unit("runs.service", SLEEP).await?;
    for _ in 0..2 {
        same("start", bench.client.job("StartUnit", &unit).await?.as_str(), "done")?;
        same("state", bench.client.state(&unit).await?.as_str(), "active/running")?;
    }
    for _ in 0..2 {
        same("stop", bench.client.job("StopUnit", &unit).await?.as_str(), "done")?;
        same("state", bench.client.state(&unit).await?.as_str(), "inactive/dead")?;
    }
    same("Result", bench.client.text(&unit, SERVICE, "Result").await?.as_str(), "success")
}

pub(super) async fn a_restart_gives_one_result(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = bench.unit("again.service", SLEEP).await?;
    for _ in 0..2 {
        same("restart", bench.client.job("RestartUnit", &unit).await?.as_str(), "done")?;
        same("state", bench.client.state(&unit).await?.as_str(), "active/running")?;
        same("has a process", bench.client.main_process(&unit).await? > 1, true)?;
    }
    same("stop", bench.client.job("StopUnit", &unit).await?.as_str(), "done")?;
    same("MainPID", bench.client.main_process(&unit).await?, 0)?;
    same("NRestarts", bench.client.numbers(&unit).await?.0, 0)
}

pub(super) async fn a_reload_of_what_cannot_reload_restarts_it(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = bench.unit("reloaded.service", SLEEP).await?;
    same("while dead", bench.client.job("ReloadOrTryRestartUnit", &unit).await?.as_str(), "done")?;
    same("state", bench.client.state(&unit).await?.as_str(), "inactive/dead")?;
    same("start", bench.client.job("StartUnit", &unit).await?.as_str(), "done")?;
    same("while running", bench.client.job("ReloadOrTryRestartUnit", &unit).await?.as_str(), "done")?;
    same("state", bench.client.state(&unit).await?.as_str(), "active/running")
}

pub(super) async fn a_oneshot_that_works_is_dead_afterwards(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = bench.unit("works.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n").await?;
    same("result", bench.client.job("StartUnit", &unit).await?.as_str(), "done")?;
    same("state", bench.client.state(&unit).await?.as_str(), "inactive/dead")?;
    let text = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecStart=-/bin/false\n";
    let unit = bench.unit("remains.service", text).await?;
    same("result", bench.client.job("StartUnit", &unit).await?.as_str(), "done")?;
    same("state", bench.client.state(&unit).await?.as_str(), "active/exited")
}

pub(super) async fn a_oneshot_that_fails_is_failed_until_reset(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = bench.unit("fails.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'exit 7'\n").await?;
    same("result", bench.client.job("StartUnit", &unit).await?.as_str(), "failed")?;
    same("state", bench.client.state(&unit).await?.as_str(), "failed/failed")?;
    same("Result", bench.client.text(&unit, SERVICE, "Result").await?.as_str(), "exit-code")?;
    same("numbers", bench.client.numbers(&unit).await?, (0, 7))?;
    bench.client.call::<_, ()>("ResetFailedUnit", &(unit.as_str(),)).await?;
    same("state", bench.client.state(&unit).await?.as_str(), "inactive/dead")
}

pub(super) async fn a_missing_program_fails_an_exec_service_at_once(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = bench.unit("no-exec.service", "[Service]\nType=exec\nExecStart=/nap-contract/none\n").await?;
    same("result", bench.client.job("StartUnit", &unit).await?.as_str(), "failed")?;
    same("state", bench.client.state(&unit).await?.as_str(), "failed/failed")?;
    same("numbers", bench.client.numbers(&unit).await?, (0, 203))
}

pub(super) async fn a_missing_program_fails_a_simple_service_later(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = bench.unit("no-program.service", "[Service]\nExecStart=/nap-contract/none\n").await?;
    same("result", bench.client.job("StartUnit", &unit).await?.as_str(), "done")?;
    bench.client.until(&unit, "failed/failed").await?;
    same("Result", bench.client.text(&unit, SERVICE, "Result").await?.as_str(), "exit-code")?;
    same("numbers", bench.client.numbers(&unit).await?, (0, 203))
}

pub(super) async fn a_failed_requirement_is_a_dependency_failure(bench: &mut Bench) -> Result<(), CheckError> {
    bench.unit("needed.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n").await?;
    let needs = "[Unit]\nRequires=nap-contract-needed.service\nAfter=nap-contract-needed.service\n";
    let unit = bench.unit("needs.service", &format!("{needs}{SLEEP}")).await?;
    same("result", bench.client.job("StartUnit", &unit).await?.as_str(), "dependency")?;
    same("state", bench.client.state(&unit).await?.as_str(), "inactive/dead")?;
    let wants = "[Unit]\nWants=nap-contract-needed.service\nAfter=nap-contract-needed.service\n";
    let unit = bench.unit("wants.service", &format!("{wants}{SLEEP}")).await?;
    same("result", bench.client.job("StartUnit", &unit).await?.as_str(), "done")
}

pub(super) async fn a_missing_requirement_refuses_the_start(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = bench.unit("lacks.service", &format!("[Unit]\nRequires=nap-contract-missing.service\n{SLEEP}")).await?;
    let error = bench.client.error("StartUnit", &(unit.as_str(), "replace")).await?;
    same("StartUnit", error.as_str(), "org.freedesktop.systemd1.NoSuchUnit")?;
    let unit = bench.unit("hopes.service", &format!("[Unit]\nWants=nap-contract-missing.service\n{SLEEP}")).await?;
    same("result", bench.client.job("StartUnit", &unit).await?.as_str(), "done")
}

pub(super) async fn a_stop_cancels_a_start(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = bench.unit("slow.service", "[Service]\nType=oneshot\nExecStart=/bin/sleep 1000\n").await?;
    let start: OwnedObjectPath = bench.client.call("StartUnit", &(unit.as_str(), "replace")).await?;
    bench.client.until(&unit, "activating/start").await?;
    let again: OwnedObjectPath = bench.client.call("StartUnit", &(unit.as_str(), "replace")).await?;
    same("the second start", again.as_str(), start.as_str())?;
    same("stop", bench.client.job("StopUnit", &unit).await?.as_str(), "done")?;
    same("start", bench.client.end_of(&start).await?.result.as_str(), "canceled")
}

pub(super) async fn a_service_that_always_fails_meets_its_start_limit(bench: &mut Bench) -> Result<(), CheckError> {
    let limit = "[Unit]\nStartLimitIntervalSec=1000\nStartLimitBurst=3\n";
    let text = format!("{limit}[Service]\nRestart=always\nRestartSec=10ms\nExecStart=/bin/sh -c 'exit 3'\n");
    let unit = bench.unit("loops.service", &text).await?;
    bench.client.job("StartUnit", &unit).await?;
    // The state "failed" is passed through before each restart, too: the last one has all restarts behind it.
    while bench.client.numbers(&unit).await?.0 < 3 {
        bench.client.until(&unit, "failed/failed").await?;
    }
    bench.client.until(&unit, "failed/failed").await?;
    same("Result", bench.client.text(&unit, SERVICE, "Result").await?.as_str(), "exit-code")?;
    same("numbers", bench.client.numbers(&unit).await?, (3, 3))?;
    same("again", bench.client.job("StartUnit", &unit).await?.as_str(), "failed")?;
    bench.client.call::<_, ()>("ResetFailedUnit", &(unit.as_str(),)).await?;
    same("after a reset", bench.client.job("StartUnit", &unit).await?.as_str(), "done")
}

pub(super) async fn a_notify_service_is_started_when_it_says_so(bench: &mut Bench) -> Result<(), CheckError> {
    let script = "while test ! -e SCRATCH/go; do sleep 0.05; done; systemd-notify --ready; exec sleep 1000";
    let text = format!("[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/sh -c '{script}'\n");
    let unit = bench.unit("notify.service", &text).await?;
    let start: OwnedObjectPath = bench.client.call("StartUnit", &(unit.as_str(), "replace")).await?;
    bench.client.until(&unit, "activating/start").await?;
    let go = bench.setup.scratch.join("go");
    std::fs::write(&go, "").map_err(|error| CheckError::new(format!("cannot write {}: {error}", go.display())))?;
    same("result", bench.client.end_of(&start).await?.result.as_str(), "done")?;
    same("state", bench.client.state(&unit).await?.as_str(), "active/running")
}

pub(super) async fn a_notify_service_that_ends_unready_broke_the_protocol(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = bench.unit("unready.service", "[Service]\nType=notify\nExecStart=/bin/true\n").await?;
    same("result", bench.client.job("StartUnit", &unit).await?.as_str(), "failed")?;
    same("Result", bench.client.text(&unit, SERVICE, "Result").await?.as_str(), "protocol")
}

pub(super) async fn an_exit_on_sigterm_fails_unless_its_status_is_allowed(bench: &mut Bench) -> Result<(), CheckError> {
    let script = "trap \"exit 143\" TERM; systemd-notify --ready; while true; do sleep 0.05; done";
    let text = format!("[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/sh -c '{script}'\n");
    for (name, more, state) in
        [("term.service", "", "failed/failed"), ("term-ok.service", "SuccessExitStatus=143\n", "inactive/dead")]
    {
        let unit = bench.unit(name, &format!("{text}{more}")).await?;
        same("start", bench.client.job("StartUnit", &unit).await?.as_str(), "done")?;
        same("stop", bench.client.job("StopUnit", &unit).await?.as_str(), "done")?;
        same(name, bench.client.state(&unit).await?.as_str(), state)?;
    }
    Ok(())
}

pub(super) async fn a_stopped_process_ends_when_its_unit_is_stopped(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = bench.unit("halted.service", SLEEP).await?;
    same("start", bench.client.job("StartUnit", &unit).await?.as_str(), "done")?;
    bench.client.call::<_, ()>("KillUnit", &(unit.as_str(), "main", SIGSTOP)).await?;
    same("stop", bench.client.job("StopUnit", &unit).await?.as_str(), "done")?;
    same("state", bench.client.state(&unit).await?.as_str(), "inactive/dead")
}

pub(super) async fn a_signal_reaches_the_main_process(bench: &mut Bench) -> Result<(), CheckError> {
    let script = "trap \"touch SCRATCH/told\" USR1; systemd-notify --ready; while true; do sleep 0.05; done";
    let text = format!("[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/sh -c '{script}'\n");
    let unit = bench.unit("told.service", &text).await?;
    same("start", bench.client.job("StartUnit", &unit).await?.as_str(), "done")?;
    bench.client.call::<_, ()>("KillUnit", &(unit.as_str(), "main", SIGUSR1)).await?;
    let start = std::time::Instant::now();
    while bench.scratch("told").is_err() && start.elapsed() < bench.setup.deadline {
        same("state", bench.client.state(&unit).await?.as_str(), "active/running")?;
    }
    bench.scratch("told").map(drop)
}

pub(super) async fn a_failing_pre_command_keeps_the_service_from_running(bench: &mut Bench) -> Result<(), CheckError> {
    let text = "[Service]\nExecStartPre=/bin/false\nExecStart=/bin/sh -c 'echo ran > SCRATCH/ran'\n";
    let unit = bench.unit("pre.service", text).await?;
    same("result", bench.client.job("StartUnit", &unit).await?.as_str(), "failed")?;
    same("state", bench.client.state(&unit).await?.as_str(), "failed/failed")?;
    same("Result", bench.client.text(&unit, SERVICE, "Result").await?.as_str(), "exit-code")?;
    same("the program ran", bench.scratch("ran").is_ok(), false)
}

pub(super) async fn a_missing_environment_file_is_a_lack_of_resources(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = bench.unit("file.service", &format!("{SLEEP}EnvironmentFile=/nap-contract/none\n")).await?;
    same("result", bench.client.job("StartUnit", &unit).await?.as_str(), "failed")?;
    same("Result", bench.client.text(&unit, SERVICE, "Result").await?.as_str(), "resources")
}

pub(super) async fn stopping_a_requirement_stops_what_needs_it(bench: &mut Bench) -> Result<(), CheckError> {
    let base = bench.unit("base.service", SLEEP).await?;
    let needs = "[Unit]\nRequires=nap-contract-base.service\nAfter=nap-contract-base.service\n";
    let unit = bench.unit("upper.service", &format!("{needs}{SLEEP}")).await?;
    same("start", bench.client.job("StartUnit", &unit).await?.as_str(), "done")?;
    same("base", bench.client.state(&base).await?.as_str(), "active/running")?;
    same("restart", bench.client.job("RestartUnit", &base).await?.as_str(), "done")?;
    bench.client.until(&unit, "active/running").await?;
    same("stop", bench.client.job("StopUnit", &base).await?.as_str(), "done")?;
    bench.client.until(&unit, "inactive/dead").await
}
