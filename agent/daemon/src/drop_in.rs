//! Called as `aks-node-controller`, this program takes that one's commands: an image links it to
//! `/opt/azure/containers/aks-node-controller`.
//!
//! Today's provisioners call `provision` from a boothook and `provision-wait` from the custom script extension. Both lead to the same
//! boot and the same report as nap-boot.service; a lock keeps two boots apart. The hotfix commands succeed and do nothing: this
//! program is updated with its image, never over the network at boot.

use std::ffi::OsString;
use std::path::Path;

/// The name under which we stand in for AgentBaker's program.
const NAME: &str = "aks-node-controller";

/// What its commands mean here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Called {
    /// As ourselves, or with arguments of ours.
    With(Vec<OsString>),
    /// A command that has nothing to do here.
    NothingToDo(String),
}

/// Translates a call by the other name; any other call stays as it is.
pub(crate) fn translated(arguments: Vec<OsString>) -> Called {
    let is_stand_in = arguments.first().and_then(|name| Path::new(name).file_name()).is_some_and(|name| name == NAME);
    let command = arguments.get(1).and_then(|command| command.to_str()).unwrap_or_default().to_owned();
    if !is_stand_in {
        return Called::With(arguments);
    }
    let ours = |command: &str, more: Vec<OsString>| {
        let start = [arguments[0].clone(), command.into()];
        Called::With(start.into_iter().chain(more).collect())
    };
    match command.as_str() {
        "provision" => ours("boot", given_file(&arguments[2..])),
        "provision-wait" => ours("wait", Vec::new()),
        "check-hotfix" | "download-hotfix" => Called::NothingToDo(command),
        _ => Called::With(arguments),
    }
}

/// `--nbc-cmd` wins over `--provision-config`, as there. Source: AgentBaker, `aks-node-controller/app.go`.
fn given_file(flags: &[OsString]) -> Vec<OsString> {
    let flags: Vec<String> = flags.iter().map(|flag| flag.to_string_lossy().into_owned()).collect();
    let value = |name: &str| {
        let joined = flags.iter().find_map(|flag| flag.strip_prefix(&format!("{name}=")).map(str::to_owned));
        let apart = || flags.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone());
        joined.or_else(apart).filter(|value| !value.is_empty())
    };
    let file = value("--nbc-cmd").or_else(|| value("--provision-config"));
    file.map(|file| vec!["--custom-data".into(), file.into()]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(line: &str) -> String {
        match translated(line.split(' ').map(OsString::from).collect()) {
            Called::With(arguments) => {
                arguments.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ")
            }
            Called::NothingToDo(command) => format!("nothing to do: {command}"),
        }
    }

    #[test]
    fn todays_calls_lead_to_our_commands() {
        let name = "/opt/azure/containers/aks-node-controller";
        for (given, wanted) in [
            ("provision", "boot"),
            ("provision --provision-config=/a.json", "boot --custom-data /a.json"),
            ("provision --provision-config /a.json --nbc-cmd=/b.sh", "boot --custom-data /b.sh"),
            ("provision --nbc-cmd=", "boot"),
            ("provision-wait", "wait"),
            ("status", "status"),
        ] {
            assert_eq!(called(&format!("{name} {given}")), format!("{name} {wanted}"));
        }
        assert_eq!(called(&format!("{name} check-hotfix")), "nothing to do: check-hotfix");
        assert_eq!(called("/usr/bin/nap-agent boot"), "/usr/bin/nap-agent boot");
        assert_eq!(called(name), name);
    }
}
