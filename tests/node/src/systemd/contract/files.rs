//! Checks of what is written in files: command lines, drop-ins, enabling.

use super::Bench;
use super::client::{CheckError, UNIT, same};

type Changes = Vec<(String, String, String)>;

pub(super) async fn variables_are_put_into_the_command_line(bench: &mut Bench) -> Result<(), CheckError> {
    let environment = "# comment\nFLAGS=\"--a=1 '--b=2 3'\"\nLABELS=x=1,y=2 z  \nEMPTY=\n";
    let file = bench.setup.scratch.join("environment");
    std::fs::write(&file, environment).map_err(|e| CheckError::new(format!("cannot write {}: {e}", file.display())))?;
    // Where a root directory separates the two, the file is also put beside the units.
    bench.write("nap-contract-environment", environment)?;
    let inside = format!("{}/nap-contract-environment", bench.setup.unit_dir_inside);
    let script = "for word in \"$@\"; do echo \"<$word>\"; done > SCRATCH/words";
    let arguments = "$FLAGS --l=${LABELS} ${LABELS} $EMPTY ${NONE} --p=$FLAGS $$FLAGS 100%% %n ${WORD}";
    let text = format!(
        "[Service]\nType=oneshot\nEnvironmentFile={inside}\nEnvironmentFile=-/nap-contract/none\n\
         Environment=\"WORD=a b\" FLAGS=hidden\nExecStart=/bin/sh -c '{script}' sh {arguments}\n"
    );
    let unit = bench.unit("words.service", &text).await?;
    let result = bench.client.job("StartUnit", &unit).await;
    let _ = std::fs::remove_file(bench.setup.unit_dir.join("nap-contract-environment")); // written above
    same("result", result?.as_str(), "done")?;
    let want = "<--a=1>\n<--b=2 3>\n<--l=x=1,y=2 z>\n<x=1,y=2 z>\n<>\n<--p=$FLAGS>\n<$FLAGS>\n<100%>\n\
                <nap-contract-words.service>\n<a b>\n";
    same("words", bench.scratch("words")?.as_str(), want)
}

pub(super) async fn drop_ins_apply_in_order(bench: &mut Bench) -> Result<(), CheckError> {
    let command =
        |word: &str| format!("[Service]\nExecStart=\nExecStart=/bin/sh -c 'echo {word} $NAME > SCRATCH/order'\n");
    let name = "nap-contract-ordered.service";
    bench.write(&format!("{name}.d/20-second.conf"), &command("second"))?;
    bench.write(&format!("{name}.d/10-first.conf"), &format!("{}Environment=NAME=first\n", command("first")))?;
    bench.write(&format!("{name}.d/30-ignored.txt"), &command("ignored"))?;
    let unit = bench.unit("ordered.service", &format!("{}Type=oneshot\n", command("base"))).await?;
    same("result", bench.client.job("StartUnit", &unit).await?.as_str(), "done")?;
    same("output", bench.scratch("order")?.as_str(), "second first\n")
}

pub(super) async fn enabling_makes_links_and_disabling_removes_them(bench: &mut Bench) -> Result<(), CheckError> {
    let text = "[Service]\nExecStart=/bin/sleep 1000\n[Install]\nWantedBy=nap-contract-wanting.target\n";
    let unit = bench.unit("enabled.service", text).await?;
    bench.unit("wanting.target", "[Unit]\nDescription=wants\n").await?;
    let units = vec![unit.clone()];
    let client = &bench.client;
    same("before", client.call::<_, String>("GetUnitFileState", &(unit.as_str(),)).await?.as_str(), "disabled")?;
    let link = format!("/etc/systemd/system/nap-contract-wanting.target.wants/{unit}");
    let target = format!("{}/{unit}", bench.setup.unit_dir_inside);
    let made: (bool, Changes) = client.call("EnableUnitFiles", &(&units, false, false)).await?;
    same("enabling", made, (true, vec![("symlink".to_owned(), link.clone(), target)]))?;
    let again: (bool, Changes) = client.call("EnableUnitFiles", &(&units, false, false)).await?;
    same("enabling again", again, (true, Vec::new()))?;
    same("enabled", client.call::<_, String>("GetUnitFileState", &(unit.as_str(),)).await?.as_str(), "enabled")?;
    client.reload().await?;
    same("UnitFileState", client.text(&unit, UNIT, "UnitFileState").await?.as_str(), "enabled")?;
    let removed: Changes = client.call("DisableUnitFiles", &(&units, false)).await?;
    same("disabling", removed, vec![("unlink".to_owned(), link, String::new())])?;
    same("disabled", client.call::<_, String>("GetUnitFileState", &(unit.as_str(),)).await?.as_str(), "disabled")
}

pub(super) async fn a_missing_unit_cannot_be_enabled(bench: &mut Bench) -> Result<(), CheckError> {
    let units = vec!["nap-contract-missing.service"];
    let error = bench.client.error("EnableUnitFiles", &(units, false, false)).await?;
    same("EnableUnitFiles", error.as_str(), "org.freedesktop.systemd1.NoSuchUnit")
}

pub(super) async fn a_unit_without_install_section_is_static(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = bench.unit("static.service", "[Service]\nExecStart=/bin/true\n").await?;
    let client = &bench.client;
    same("state", client.call::<_, String>("GetUnitFileState", &(unit.as_str(),)).await?.as_str(), "static")?;
    let none: (bool, Changes) = client.call("EnableUnitFiles", &(vec![unit.as_str()], false, false)).await?;
    same("enabling", none, (false, Vec::new()))
}

pub(super) async fn unmasking_removes_the_link(bench: &mut Bench) -> Result<(), CheckError> {
    let unit = "nap-contract-hidden.service".to_owned();
    let setup = &bench.setup;
    let link = setup.unit_dir.join(&unit);
    bench.units.push(unit.clone());
    let made = std::os::unix::fs::symlink("/dev/null", &link);
    made.map_err(|error| CheckError::new(format!("cannot make {}: {error}", link.display())))?;
    bench.client.reload().await?;
    same("before", bench.client.text(&unit, UNIT, "LoadState").await?.as_str(), "masked")?;
    let folder = setup.unit_dir_inside.clone();
    let runtime = folder.starts_with("/run/");
    let removed: Changes = bench.client.call("UnmaskUnitFiles", &(vec![unit.as_str()], runtime)).await?;
    let expected = vec![("unlink".to_owned(), format!("{folder}/{unit}"), String::new())];
    same("unmasking", removed, expected)
}
