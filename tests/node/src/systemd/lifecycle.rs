//! The life of a service: its processes one after another, what their ends mean, when it starts again.

use super::events::{Event, Timer};
use super::jobs::Verb;
use super::machine::{Machine, Phase};
use super::processes::ProcessId;
use super::service::{Command, End, Kind, Outcome, Service};
use nix::sys::signal::Signal;

/// Exit status of a program that could not be started. Source: EXIT_EXEC in systemd.exec(5).
const EXIT_EXEC: i32 = 203;

impl Machine {
    /// Starts a unit that is stopped.
    pub(crate) fn start(&mut self, name: &str, automatic: bool) {
        let Some(live) = self.units.get_mut(name) else { return };
        live.outcome = Outcome::Success;
        live.asked_to_stop = false;
        if !automatic {
            live.restarts = 0;
        }
        let Some(service) = live.unit.service.clone() else { return self.enter(name, Phase::Active) };
        live.end = None;
        if self.processes.is_none() {
            return self.pretend_to_run(name, &service);
        }
        live.queue = service.pre.iter().cloned().collect();
        self.enter(name, Phase::StartPre);
        if let Some(timeout) = service.start_timeout {
            self.set_timer(name, timeout, Timer::StartTimeout);
        }
        self.next_command(name, &service);
    }

    fn pretend_to_run(&mut self, name: &str, service: &Service) {
        let phase = match (service.kind, service.remain_after_exit) {
            (Kind::Oneshot, false) => Phase::Dead,
            (Kind::Oneshot, true) => Phase::Exited,
            (Kind::Simple | Kind::Exec | Kind::Notify, _) => Phase::Running,
        };
        self.enter(name, phase);
    }

    /// Moves a unit to another phase.
    pub(crate) fn enter(&mut self, name: &str, phase: Phase) {
        let Some(live) = self.units.get_mut(name) else { return };
        let same_start =
            matches!((live.phase, phase), (Phase::StartPre, Phase::Start) | (Phase::Start, Phase::StartPost));
        if !same_start {
            live.epoch += 1; // the start timeout covers all of a start
        }
        live.phase = phase;
        self.changed.insert(name.to_owned());
    }

    fn set_timer(&self, name: &str, after: std::time::Duration, timer: Timer) {
        let Some(live) = self.units.get(name) else { return };
        let epoch = if timer == Timer::Watchdog { live.watchdog_epoch } else { live.epoch };
        self.later(after, Event::Due { unit: name.to_owned(), epoch, timer });
    }

    /// Runs the next command of the phase, or goes to the next phase when there is none.
    fn next_command(&mut self, name: &str, service: &Service) {
        let Some(live) = self.units.get_mut(name) else { return };
        let phase = live.phase;
        match (live.queue.pop_front(), phase) {
            (Some(command), Phase::Start) if service.kind == Kind::Oneshot => self.run_oneshot(name, service, &command),
            (Some(command), Phase::StartPre | Phase::StartPost | Phase::Stop) => {
                self.run_control(name, service, &command)
            }
            (None, Phase::StartPre) => self.run_main(name, service),
            (None, Phase::Start) => self.after_main_started(name, service),
            (None, Phase::StartPost) => self.after_start(name, service),
            (None, Phase::Stop) => self.terminate(name, service),
            (_, Phase::Dead | Phase::Failed | Phase::Running | Phase::Exited | Phase::AutoRestart)
            | (_, Phase::Active | Phase::StopSigterm | Phase::StopSigkill)
            | (Some(_), Phase::Start) => {}
        }
    }

    fn run_control(&mut self, name: &str, service: &Service, command: &Command) {
        match self.spawn(name, service, command) {
            Ok(id) => {
                if let Some(live) = self.units.get_mut(name) {
                    live.control = Some((id, command.ignore_failure));
                }
            }
            Err(outcome) => self.control_ended(name, service, outcome_or_ignored(outcome, command.ignore_failure)),
        }
    }

    fn run_oneshot(&mut self, name: &str, service: &Service, command: &Command) {
        match self.spawn(name, service, command) {
            Ok(id) => {
                if let Some(live) = self.units.get_mut(name) {
                    (live.main, live.control) = (Some(id), Some((id, command.ignore_failure)));
                }
            }
            Err(outcome) => {
                self.record_failed_start(name);
                self.control_ended(name, service, outcome_or_ignored(outcome, command.ignore_failure));
            }
        }
    }

    /// Starts the main process; what "started" means depends on the type.
    fn run_main(&mut self, name: &str, service: &Service) {
        self.enter(name, Phase::Start);
        if service.kind == Kind::Oneshot {
            if let Some(live) = self.units.get_mut(name) {
                live.queue = service.main.iter().cloned().collect();
            }
            return self.next_command(name, service);
        }
        match self.spawn(name, service, &service.main[0]) {
            Ok(id) => {
                if let Some(live) = self.units.get_mut(name) {
                    live.main = Some(id);
                }
                if service.kind != Kind::Notify {
                    self.after_main_started(name, service);
                }
            }
            Err(outcome) => {
                if outcome == Outcome::Resources {
                    return self.end_service(name, outcome, true); // systemd found this before it forked
                }
                self.record_failed_start(name);
                if service.kind == Kind::Simple {
                    // A simple service counts as started once it was forked, before its program was found missing.
                    self.enter(name, Phase::Running);
                    self.finish_started(name);
                }
                self.end_service(name, outcome, true);
            }
        }
    }

    fn record_failed_start(&mut self, name: &str) {
        if let Some(live) = self.units.get_mut(name) {
            live.end = Some(End::Code(EXIT_EXEC));
        }
    }

    fn after_main_started(&mut self, name: &str, service: &Service) {
        if let Some(live) = self.units.get_mut(name) {
            live.queue = service.post.iter().cloned().collect();
        }
        self.enter(name, Phase::StartPost);
        self.next_command(name, service);
    }

    fn after_start(&mut self, name: &str, service: &Service) {
        match service.kind {
            Kind::Oneshot if service.remain_after_exit => self.enter(name, Phase::Exited),
            Kind::Oneshot => return self.end_service(name, Outcome::Success, true),
            Kind::Simple | Kind::Exec | Kind::Notify => self.enter(name, Phase::Running),
        }
        self.arm_watchdog(name);
        self.finish_started(name);
    }

    fn spawn(&mut self, name: &str, service: &Service, command: &Command) -> Result<ProcessId, Outcome> {
        let Some(processes) = self.processes.as_mut() else { return Err(Outcome::Resources) };
        let environment = processes.environment(&self.root, service).map_err(|_| Outcome::Resources)?;
        processes.spawn(&self.root, name, service, command, &environment).map_err(|_| Outcome::ExitCode)
    }

    /// A process ended.
    pub(crate) fn ended(&mut self, id: ProcessId, end: End) {
        if let Some(processes) = self.processes.as_mut() {
            processes.forget(id);
        }
        let owner = self.units.iter().find(|(_, l)| l.main == Some(id) || l.control.is_some_and(|(c, _)| c == id));
        let Some((name, service)) = owner.and_then(|(name, l)| Some((name.clone(), l.unit.service.clone()?))) else {
            return;
        };
        let Some(live) = self.units.get_mut(&name) else { return };
        let is_main = live.main == Some(id);
        if is_main {
            (live.main, live.end) = (None, Some(end));
            self.changed.insert(name.clone());
        }
        match live.control.take_if(|(control, _)| *control == id) {
            Some((_, ignored)) => {
                self.control_ended(&name, &service, outcome_or_ignored(service.outcome(end), ignored));
            }
            None => self.main_ended(&name, &service, service.outcome(end)),
        }
    }

    fn control_ended(&mut self, name: &str, service: &Service, outcome: Outcome) {
        let stopping = self.units.get(name).is_some_and(|live| live.phase == Phase::Stop);
        if outcome == Outcome::Success || stopping {
            return self.next_command(name, service);
        }
        self.fail_while_running(name, outcome);
    }

    /// Ends a service that failed in some way other than its main process ending.
    fn fail_while_running(&mut self, name: &str, outcome: Outcome) {
        let Some(live) = self.units.get_mut(name) else { return };
        live.queue.clear();
        if live.outcome == Outcome::Success {
            live.outcome = outcome;
        }
        let (main, service) = (live.main, live.unit.service.clone());
        match (main, service) {
            (Some(_), Some(service)) => self.terminate(name, &service),
            _ => self.end_service(name, outcome, true),
        }
    }

    fn main_ended(&mut self, name: &str, service: &Service, outcome: Outcome) {
        let Some(phase) = self.units.get(name).map(|live| live.phase) else { return };
        match phase {
            Phase::Start if service.kind == Kind::Notify && outcome == Outcome::Success => {
                self.end_service(name, Outcome::Protocol, true);
            }
            Phase::Running if service.remain_after_exit && outcome == Outcome::Success => {
                self.enter(name, Phase::Exited);
            }
            // The commands that stop the service end it when they are done.
            Phase::Stop => {}
            Phase::StopSigterm | Phase::StopSigkill => self.end_service(name, outcome, true),
            Phase::StartPre | Phase::Start | Phase::StartPost | Phase::Running | Phase::Exited => {
                self.end_service(name, outcome, true);
            }
            Phase::Dead | Phase::Failed | Phase::AutoRestart | Phase::Active => {}
        }
    }

    /// The service has ended: it is dead, failed, or waits to be started again.
    fn end_service(&mut self, name: &str, outcome: Outcome, may_restart: bool) {
        let Some(live) = self.units.get_mut(name) else { return };
        if live.outcome == Outcome::Success {
            live.outcome = outcome;
        }
        live.queue.clear();
        live.watchdog_epoch += 1;
        let left = live.control.take().map(|(id, _)| id).into_iter().chain(live.main.take());
        for id in left {
            if let Some(processes) = self.processes.as_mut() {
                processes.signal(id, Signal::SIGKILL);
            }
        }
        let (outcome, asked) = (live.outcome, live.asked_to_stop);
        let again = live.unit.service.as_ref().filter(|s| may_restart && !asked && s.restarts_after(outcome));
        let pause = again.map(|s| s.restart_after);
        self.enter(name, if outcome == Outcome::Success { Phase::Dead } else { Phase::Failed });
        self.finish_started(name);
        self.finish_stopped(name);
        if let Some(pause) = pause {
            self.enter(name, Phase::AutoRestart);
            self.set_timer(name, pause, Timer::Restart);
        }
    }

    /// Asks a unit to stop; its stop job ends when it has.
    pub(crate) fn stop(&mut self, name: &str) {
        let Some(live) = self.units.get_mut(name) else { return };
        live.asked_to_stop = true;
        match (live.phase, live.unit.service.clone()) {
            (Phase::Dead | Phase::Failed | Phase::Stop | Phase::StopSigterm | Phase::StopSigkill, _) => {}
            (Phase::AutoRestart | Phase::Active, _) | (_, None) => self.enter(name, Phase::Dead),
            (_, Some(_)) if self.processes.is_none() => self.enter(name, Phase::Dead),
            (Phase::Running | Phase::Exited, Some(service)) => {
                live.queue = service.stop.iter().cloned().collect();
                self.enter(name, Phase::Stop);
                self.next_command(name, &service);
            }
            (Phase::StartPre | Phase::Start | Phase::StartPost, Some(service)) => self.terminate(name, &service),
        }
    }

    /// Sends the signal that asks the processes to end.
    fn terminate(&mut self, name: &str, service: &Service) {
        let Some(live) = self.units.get_mut(name) else { return };
        live.queue.clear();
        let left: Vec<ProcessId> = live.main.into_iter().chain(live.control.map(|(id, _)| id)).collect();
        if left.is_empty() {
            return self.end_service(name, Outcome::Success, true);
        }
        // A start that is cut short ends its command as the main process would.
        if live.main.is_none() {
            live.main = live.control.take().map(|(id, _)| id);
        }
        live.control = None;
        self.enter(name, Phase::StopSigterm);
        if let Some(processes) = self.processes.as_mut() {
            for id in left {
                processes.signal(id, service.stop_signal);
                // One that is stopped could not end. Source: kill_and_sigcont in systemd's src/basic/process-util.c.
                processes.signal(id, Signal::SIGCONT);
            }
        }
        if let Some(timeout) = service.stop_timeout {
            self.set_timer(name, timeout, Timer::StopTimeout);
        }
    }

    /// A timer ran out; one set in an earlier phase means nothing any more.
    pub(crate) fn due(&mut self, name: &str, epoch: u64, timer: Timer) {
        let Some(live) = self.units.get(name) else { return };
        let current = if timer == Timer::Watchdog { live.watchdog_epoch } else { live.epoch };
        if current != epoch {
            return;
        }
        match timer {
            Timer::Restart => self.restart(name),
            Timer::StartTimeout => self.fail_while_running(name, Outcome::Timeout),
            Timer::StopTimeout => self.give_up(name, Phase::StopSigkill, Signal::SIGKILL, Outcome::Timeout),
            Timer::Watchdog => self.give_up(name, Phase::StopSigterm, Signal::SIGABRT, Outcome::Watchdog),
        }
    }

    fn restart(&mut self, name: &str) {
        if let Some(live) = self.units.get_mut(name) {
            live.restarts += 1;
        }
        self.enter(name, Phase::Dead);
        let id = self.install(name, Verb::Start, true);
        if let Some(job) = self.jobs.get_mut(&id) {
            job.automatic = true;
        }
    }

    fn give_up(&mut self, name: &str, phase: Phase, signal: Signal, outcome: Outcome) {
        let Some(live) = self.units.get_mut(name) else { return };
        if live.outcome == Outcome::Success {
            live.outcome = outcome;
        }
        let main = live.main;
        self.enter(name, phase);
        if let (Some(processes), Some(main)) = (self.processes.as_mut(), main) {
            processes.signal(main, signal);
        }
    }

    /// A service sent a notification, as sd_notify(3) has it.
    pub(crate) fn notified(&mut self, name: &str, text: &str) {
        let Some(live) = self.units.get(name) else { return };
        let service = live.unit.service.clone().filter(|s| s.kind == Kind::Notify && live.phase == Phase::Start);
        let lines: Vec<&str> = text.lines().collect();
        if let Some(service) = service.filter(|_| lines.contains(&"READY=1")) {
            self.after_main_started(name, &service);
        }
        if lines.contains(&"WATCHDOG=1") {
            self.arm_watchdog(name);
        }
    }

    fn arm_watchdog(&mut self, name: &str) {
        let Some(live) = self.units.get_mut(name) else { return };
        live.watchdog_epoch += 1;
        let within = live.unit.service.as_ref().and_then(|s| s.watchdog);
        if let Some(within) = within.filter(|_| self.processes.is_some()) {
            self.set_timer(name, within, Timer::Watchdog);
        }
    }
}

fn outcome_or_ignored(outcome: Outcome, ignored: bool) -> Outcome {
    if ignored { Outcome::Success } else { outcome }
}
