//! Checks of loading, states, errors and reloading.

use super::Bench;
use super::client::{CheckError, Client, SERVICE, UNIT, same};
use zbus::zvariant::OwnedObjectPath;

const SLEEP: &str = "[Service]\nExecStart=/bin/sleep 1000\n";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

pub(super) async fn a_missing_unit_loads_as_not_found(bench: &mut Bench) -> Result<(), CheckError> {
    let client = &bench.client;
    let unit = "nap-contract-missing.service";
    let path: OwnedObjectPath = client.call("LoadUnit", &(unit,)).await?;
    let want = "/org/freedesktop/systemd1/unit/nap_2dcontract_2dmissing_2eservice";
    same("path", path.as_str(), want)?;
    same("LoadState", client.text(unit, UNIT, "LoadState").await?.as_str(), "not-found")?;
    same("UnitFileState", client.text(unit, UNIT, "UnitFileState").await?.as_str(), "")?;
    same("NeedDaemonReload", client.flag(unit, "NeedDaemonReload").await?, false)?;
    same("state", client.state(unit).await?.as_str(), "inactive/dead")
}

pub(super) async fn a_missing_unit_cannot_be_started_stopped_or_reset(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = "nap-contract-missing.service";
    for member in ["StartUnit", "StopUnit", "RestartUnit"] {
        same(member, bench.client.error(member, &(unit, "replace")).await?.as_str(), NO_SUCH_UNIT)?;
        same(member, bench.client.error(member, &(unit, "replace-irreversibly")).await?.as_str(), NO_SUCH_UNIT)?;
        let error = bench.client.error(member, &(unit, "no-such-mode")).await?;
        same(member, error.as_str(), "org.freedesktop.DBus.Error.InvalidArgs")?;
    }
    same("reset", bench.client.error("ResetFailedUnit", &(unit,)).await?.as_str(), NO_SUCH_UNIT)?;
    let error = bench.client.error("GetUnitFileState", &(unit,)).await?;
    same("GetUnitFileState", error.as_str(), "org.freedesktop.DBus.Error.FileNotFound")
}

pub(super) async fn a_bad_name_is_an_invalid_argument(bench: &mut Bench) -> Result<(), CheckError> {
    for name in ["no-suffix", "bad name.service", "x.unheard"] {
        for member in ["StartUnit", "StopUnit"] {
            let error = bench.client.error(member, &(name, "replace")).await?;
            same(member, error.as_str(), "org.freedesktop.DBus.Error.InvalidArgs")?;
        }
        let error = bench.client.error("LoadUnit", &(name,)).await?;
        same("LoadUnit", error.as_str(), "org.freedesktop.DBus.Error.InvalidArgs")?;
    }
    Ok(())
}

pub(super) async fn a_bad_unit_says_bad_setting(bench: &mut Bench) -> Result<(), CheckError> {
    let texts = [
        "[Service]\nType=simple\n",
        "[Service]\nExecStart=relative/path\n",
        "[Service]\nType=simple\nExecStart=/bin/true\nExecStart=/bin/true\n",
        "[Service]\nType=oneshot\nRestart=always\nExecStart=/bin/true\n",
    ];
    for (number, text) in texts.iter().enumerate() {
        let unit = bench.unit(&format!("bad-{number}.service"), text).await?;
        same(text, bench.client.text(&unit, UNIT, "LoadState").await?.as_str(), "bad-setting")?;
        let error = bench.client.error("StartUnit", &(unit.as_str(), "replace")).await?;
        same(text, error.as_str(), "org.freedesktop.systemd1.BadUnitSetting")?;
    }
    Ok(())
}

pub(super) async fn an_unreadable_unit_is_an_error(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = bench.unit("broken.service", "[Unit\nDescription=broken\n").await?;
    same("LoadState", bench.client.text(&unit, UNIT, "LoadState").await?.as_str(), "error")?;
    let error = bench.client.error("StartUnit", &(unit.as_str(), "replace")).await?;
    same("StartUnit", error.as_str(), "org.freedesktop.DBus.Error.InconsistentMessage")
}

pub(super) async fn a_masked_unit_cannot_be_started(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = "nap-contract-masked.service";
    let link = bench.setup.unit_dir.join(unit);
    bench.units.push(unit.to_owned());
    let made = std::os::unix::fs::symlink("/dev/null", &link);
    made.map_err(|error| CheckError::new(format!("cannot make {}: {error}", link.display())))?;
    bench.client.reload().await?;
    same("LoadState", bench.client.text(unit, UNIT, "LoadState").await?.as_str(), "masked")?;
    let error = bench.client.error("StartUnit", &(unit, "replace")).await?;
    same("StartUnit", error.as_str(), "org.freedesktop.systemd1.UnitMasked")
}

pub(super) async fn unknown_things_have_their_own_errors(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = bench.unit("plain.service", SLEEP).await?;
    let error = bench.client.error("NoSuchMethod", &()).await?;
    same("method", error.as_str(), "org.freedesktop.DBus.Error.UnknownMethod")?;
    let error = bench.client.property_error(&unit, UNIT, "NoSuchProperty").await?;
    same("property", error.as_str(), "org.freedesktop.DBus.Error.UnknownProperty")?;
    let error = bench.client.property_error("nap-contract-x.target", SERVICE, "Result").await?;
    same("interface", error.as_str(), "org.freedesktop.DBus.Error.UnknownProperty")
}

pub(super) async fn a_unit_whose_condition_fails_is_done_and_dead(bench: &mut Bench) -> Result<(), CheckError> {
    let text = format!("[Unit]\nConditionPathExists=/nap-contract/none\n{SLEEP}");
    let unit = bench.unit("condition.service", &text).await?;
    same("result", bench.client.job("StartUnit", &unit).await?.as_str(), "done")?;
    same("state", bench.client.state(&unit).await?.as_str(), "inactive/dead")?;
    same("ConditionResult", bench.client.flag(&unit, "ConditionResult").await?, false)?;
    bench.write(&unit, &format!("[Unit]\nConditionPathExists=!/nap-contract/none\n{SLEEP}"))?;
    bench.client.reload().await?;
    same("result", bench.client.job("StartUnit", &unit).await?.as_str(), "done")?;
    same("state", bench.client.state(&unit).await?.as_str(), "active/running")?;
    same("ConditionResult", bench.client.flag(&unit, "ConditionResult").await?, true)
}

pub(super) async fn a_change_on_disk_asks_for_a_reload(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = bench.unit("changed.service", SLEEP).await?;
    same("result", bench.client.job("StartUnit", &unit).await?.as_str(), "done")?;
    same("before", bench.client.flag(&unit, "NeedDaemonReload").await?, false)?;
    rewrite_until_newer(bench, &unit)?;
    same("after", bench.client.flag(&unit, "NeedDaemonReload").await?, true)?;
    bench.client.reload().await?;
    same("reloaded", bench.client.flag(&unit, "NeedDaemonReload").await?, false)?;
    same("state", bench.client.state(&unit).await?.as_str(), "active/running")
}

/// File systems keep coarse times: a file is written again until its time is another.
fn rewrite_until_newer(bench: &Bench, unit: &str) -> Result<(), CheckError> {
    let path = bench.setup.unit_dir.join(unit);
    let changed = || path.metadata().and_then(|m| m.modified()).map_err(|e| CheckError::new(e.to_string()));
    let before = changed()?;
    while changed()? == before {
        bench.write(unit, SLEEP)?;
    }
    Ok(())
}

pub(super) async fn a_new_drop_in_asks_for_a_reload(bench: &mut Bench) -> Result<(), CheckError> {
    // A folder of drop-ins that systemd has not seen before escapes it (its cache of paths); one that it knows does not.
    bench.write("nap-contract-extended.service.d/00-first.conf", "[Unit]\nDescription=first\n")?;
    let unit = bench.unit("extended.service", SLEEP).await?;
    same("result", bench.client.job("StartUnit", &unit).await?.as_str(), "done")?;
    bench.write(&format!("{unit}.d/10-more.conf"), "[Unit]\nDescription=more\n")?;
    same("NeedDaemonReload", bench.client.flag(&unit, "NeedDaemonReload").await?, true)
}

pub(super) async fn several_clients_hear_of_the_same_job(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = bench.unit("heard.service", SLEEP).await?;
    let mut other = Client::connect(&bench.setup).await?;
    let job: OwnedObjectPath = bench.client.call("StartUnit", &(unit.as_str(), "replace")).await?;
    same("first", bench.client.end_of(&job).await?.result.as_str(), "done")?;
    same("second", other.end_of(&job).await?.result.as_str(), "done")
}
