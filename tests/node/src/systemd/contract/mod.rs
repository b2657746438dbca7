//! What nap-agent relies on in systemd, as checks that run against any systemd: this stand-in and the real one.
//!
//! The checks write units of their own (all named `nap-contract-...`), start them, and remove them. They need
//! `sh`, `true`, `false`, `sleep` and `systemd-notify` below the root of the systemd that is checked.

mod client;
mod files;
mod services;
mod states;

use client::{CheckError, Client};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which systemd to check, and where to put units.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Socket of the systemd: `/run/systemd/private` for the real one.
    pub socket: PathBuf,
    /// Folder of units, as this program sees it.
    pub unit_dir: PathBuf,
    /// The same folder as that systemd sees it.
    pub unit_dir_inside: String,
    /// An empty folder that the units' processes may write to; both see it at this path.
    pub scratch: PathBuf,
    /// How long anything a check waits for may take.
    pub deadline: Duration,
}

/// What one check found.
#[derive(Debug)]
pub struct Finding {
    /// Name of the check, a sentence.
    pub check: &'static str,
    /// Absent when systemd does as expected, else what it did.
    pub fault: Option<String>,
}

/// Runs every check, each with a connection of its own, and tells of each as it ends.
pub async fn run(setup: &Setup, mut tell: impl FnMut(Finding)) {
    macro_rules! check {
        ($($room:ident :: $name:ident),* $(,)?) => {$(
            let fault = one(setup, async |bench: &mut Bench| $room::$name(bench).await).await;
            tell(Finding { check: stringify!($name), fault });
        )*};
    }
    check!(
        states::a_missing_unit_loads_as_not_found,
        states::a_missing_unit_cannot_be_started_stopped_or_reset,
        states::a_bad_name_is_an_invalid_argument,
        states::a_bad_unit_says_bad_setting,
        states::an_unreadable_unit_is_an_error,
        states::a_masked_unit_cannot_be_started,
        states::unknown_things_have_their_own_errors,
        states::a_unit_whose_condition_fails_is_done_and_dead,
        states::a_change_on_disk_asks_for_a_reload,
        states::a_new_drop_in_asks_for_a_reload,
        states::several_clients_hear_of_the_same_job,
        services::a_service_starts_and_stops,
        services::a_restart_gives_one_result,
        services::a_reload_of_what_cannot_reload_restarts_it,
        services::a_oneshot_that_works_is_dead_afterwards,
        services::a_oneshot_that_fails_is_failed_until_reset,
        services::a_missing_program_fails_an_exec_service_at_once,
        services::a_missing_program_fails_a_simple_service_later,
        services::a_failed_requirement_is_a_dependency_failure,
        services::a_missing_requirement_refuses_the_start,
        services::a_stop_cancels_a_start,
        services::a_service_that_always_fails_meets_its_start_limit,
        services::a_notify_service_is_started_when_it_says_so,
        services::a_notify_service_that_ends_unready_broke_the_protocol,
        services::an_exit_on_sigterm_fails_unless_its_status_is_allowed,
        services::a_stopped_process_ends_when_its_unit_is_stopped,
        services::a_signal_reaches_the_main_process,
        services::a_failing_pre_command_keeps_the_service_from_running,
        services::a_missing_environment_file_is_a_lack_of_resources,
        services::stopping_a_requirement_stops_what_needs_it,
        files::variables_are_put_into_the_command_line,
        files::drop_ins_apply_in_order,
        files::enabling_makes_links_and_disabling_removes_them,
        files::unmasking_removes_the_link,
        files::a_missing_unit_cannot_be_enabled,
        files::a_unit_without_install_section_is_static,
    );
}

async fn one(setup: &Setup, check: impl AsyncFnOnce(&mut Bench) -> Result<(), CheckError>) -> Option<String> {
    let client = match Client::connect(setup).await {
        Ok(client) => client,
        Err(error) => return Some(error.to_string()),
    };
    let mut bench = Bench { client, setup: setup.clone(), units: Vec::new() };
    let result = check(&mut bench).await;
    let tidied = bench.tidy().await;
    result.and(tidied).err().map(|error| error.to_string())
}

/// What a check works with: a connection and units that are removed afterwards.
struct Bench {
    client: Client,
    setup: Setup,
    units: Vec<String>,
}

impl Bench {
    /// Writes a unit and has systemd read it. `SCRATCH` in the text becomes the scratch folder.
    async fn unit(&mut self, name: &str, text: &str) -> Result<String, CheckError> {
        let unit = format!("nap-contract-{name}");
        self.write(&unit, text)?;
        self.units.push(unit.clone());
        self.client.reload().await?;
        Ok(unit)
    }

    /// Writes a file beside the units.
    fn write(&self, path: &str, text: &str) -> Result<(), CheckError> {
        let text = text.replace("SCRATCH", &self.setup.scratch.to_string_lossy());
        let path = self.setup.unit_dir.join(path);
        let parent = path.parent().unwrap_or(Path::new("/"));
        let written = fs::create_dir_all(parent).and_then(|()| fs::write(&path, text));
        written.map_err(|error| CheckError::new(format!("cannot write {}: {error}", path.display())))
    }

    /// The text of a file in the scratch folder.
    fn scratch(&self, name: &str) -> Result<String, CheckError> {
        let path = self.setup.scratch.join(name);
        fs::read_to_string(&path).map_err(|error| CheckError::new(format!("cannot read {}: {error}", path.display())))
    }

    async fn tidy(&mut self) -> Result<(), CheckError> {
        for unit in std::mem::take(&mut self.units) {
            // A unit that was never started, or is not loaded, cannot be stopped or reset; that is as well.
            let _ = self.client.job("StopUnit", &unit).await;
            let _ = self.client.call::<_, ()>("ResetFailedUnit", &(unit.as_str(),)).await;
            let units = vec![unit.as_str()];
            // A masked unit, say, cannot be disabled.
            let _ = self.client.call::<_, Vec<(String, String, String)>>("DisableUnitFiles", &(units, false)).await;
            for path in [unit.clone(), format!("{unit}.d")] {
                let path = self.setup.unit_dir.join(path);
                let _ = fs::remove_file(&path); // it is a file or a folder, or was never made
                let _ = fs::remove_dir_all(&path);
            }
        }
        self.client.reload().await
    }
}
