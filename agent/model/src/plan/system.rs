//! The operating system around kubelet: huge pages, swap, login, updates.

use super::resource::{AbsPath, Content, Digest, Place, Readiness, Step, Want, public_file};
use crate::config::NodeConfig;
use crate::os::{Distribution, Upgrades};

/// Where the swap file is, and the unit that systemd derives from that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Swap {
    pub(super) file: &'static str,
    pub(super) unit: &'static str,
}

impl Swap {
    /// On the OS disk.
    pub(super) const ON_ROOT: Self = Self { file: "/swapfile", unit: "swapfile.swap" };

    fn unit_file(self) -> Step {
        let text = format!(
            "# Written by nap-agent.\n[Unit]\nDescription=Swap of this AKS node\n\n[Swap]\nWhat={}\n",
            self.file
        );
        let path = format!("/etc/systemd/system/{}", self.unit);
        let path = AbsPath::try_from(path.as_str()).expect("unit names have no slash");
        let want = Want::File { path, mode: 0o644, content: Content::public(text) };
        Step::new("swap.unit", "systemd turns swap on", want).desired()
    }
}

/// Swap is counted in pages of this size, in bytes, on every architecture Azure has.
const PAGE_BYTES: u64 = 4096;

pub(super) fn files(config: &NodeConfig, os: &Distribution, swap: Swap) -> Vec<Step> {
    let mut steps = Vec::new();
    if config.os.swap_file_bytes.is_some() {
        steps.push(swap.unit_file());
    }
    if let Some(message) = &config.os.message_of_the_day {
        let want = public_file("/etc/motd", message.trim_end().to_owned() + "\n");
        steps.push(Step::new("login.message", "people who log in see it", want).desired());
    }
    if !config.os.ssh.public_keys {
        steps.push(Step::new("ssh.public-keys", "no public key logs anybody in", public_keys_off()).desired());
    }
    if let (Some(on), Upgrades::Apt) = (config.os.unattended_upgrades, os.upgrades) {
        let days = u8::from(on);
        let text = format!(
            "APT::Periodic::Update-Package-Lists \"{days}\";\nAPT::Periodic::Download-Upgradeable-Packages \"{days}\";\n\
             APT::Periodic::AutocleanInterval \"{days}\";\nAPT::Periodic::Unattended-Upgrade \"{days}\";\n"
        );
        let want = public_file("/etc/apt/apt.conf.d/99periodic", text);
        steps.push(Step::new("upgrades.apt", "apt's timers do what it says", want).desired());
    }
    steps
}

/// The first word counts for sshd, so ours stands first.
fn public_keys_off() -> Want {
    Want::Block {
        path: AbsPath::literal("/etc/ssh/sshd_config"),
        place: Place::Top,
        mode: 0o600,
        lines: "PubkeyAuthentication no\n".to_owned(),
    }
}

pub(super) fn settings(config: &NodeConfig, os: &Distribution, swap: Swap) -> Vec<Step> {
    let mut steps = Vec::new();
    let pages = &config.os.huge_pages;
    for (name, word) in [("enabled", &pages.enabled), ("defrag", &pages.defrag)] {
        let Some(value) = word.clone() else { continue };
        let path = format!("/sys/kernel/mm/transparent_hugepage/{name}");
        let path = AbsPath::try_from(path.as_str()).expect("two words below /sys are a path");
        let why = "the node class chooses how huge pages are used";
        steps.push(Step::new(format!("huge-pages.{name}"), why, Want::Choice { path, value }).desired());
    }
    if let Some(bytes) = config.os.swap_file_bytes {
        let want = Want::SwapFile { path: AbsPath::literal(swap.file), bytes: bytes.next_multiple_of(PAGE_BYTES) };
        steps.push(Step::new("swap.file", "the node class asks for swap", want).desired());
    }
    if let Some(user) = config.os.admin_user.clone() {
        let why = "an account that expires locks out who comes to help";
        steps.push(Step::new("login.no-expiry", why, Want::NoExpiry { user }).desired());
    }
    if !config.os.ssh.enabled {
        for &name in os.ssh_units {
            let why = "the provisioner wants no remote login";
            steps.push(Step::new(format!("ssh.off.{name}"), why, Want::Enabled { name, enabled: false }).desired());
        }
    }
    if let Some(enabled) = config.os.unattended_upgrades {
        for &name in upgrade_units(os.upgrades) {
            let why = "the provisioner decides who installs updates";
            steps.push(Step::new(format!("upgrades.{name}"), why, Want::Enabled { name, enabled }).desired());
        }
    }
    steps
}

fn upgrade_units(upgrades: Upgrades) -> &'static [&'static str] {
    match upgrades {
        Upgrades::Apt => &["apt-daily.timer", "apt-daily-upgrade.timer"],
        Upgrades::DnfAutomatic => &["dnf-automatic-install.timer"],
    }
}

/// What must come after files and settings: units that use them.
pub(super) fn units(config: &NodeConfig, os: &Distribution, swap: Swap) -> Vec<Step> {
    let mut steps = Vec::new();
    if config.os.swap_file_bytes.is_some() {
        let inputs = Digest::of_files([&swap.unit_file()]);
        let want = Want::Unit { name: swap.unit, inputs, readiness: Readiness::Active };
        steps.push(Step::new("swap.on", "the node class asks for swap", want).desired());
    }
    if !config.os.ssh.public_keys && config.os.ssh.enabled {
        let server = os.ssh_units.last().copied().unwrap_or("ssh.service");
        let file = Step::new("", "", public_keys_off());
        let Want::Block { path, .. } = &file.want else { return steps };
        let want = Want::Reread { name: server, files: vec![path.clone()] };
        steps.push(Step::new("ssh.reread", "a running server knows only what it has read", want).desired());
    }
    steps
}
