//! The guard proof on a real kernel: each kind of foreign data on a disk that is local by identity, alone and beside a blank one; the
//! executor is told to make a file system there, past all that a plan would say. Not a byte of any disk changes.

use std::fmt::Write as _;

use nap_e2e::corpus::{BYTES, CORPUS, make, prepare};
use nap_vm::{Bus, DataDisk, Image, Vm, VmLock, artifact, target, workspace};

use crate::azure::Azure;
use crate::guest::{BOOT, COMMAND, note, told, wait_for_agent};
use crate::local_disks::{assert_namespaces_are_told_apart, namespaces, overlay};

/// Room between the images.
const STRIDE: u64 = BYTES + (1 << 20);

#[test]
fn no_foreign_disk_is_written_to() {
    let lock = VmLock::take().unwrap();
    let folder = tempfile::tempdir_in(target()).unwrap();
    prepare(folder.path());
    let content: Vec<_> =
        CORPUS.iter().zip(0..).map(|(kind, number)| (number * STRIDE, make(kind, folder.path()))).collect();
    let azure = Azure::start();
    let script = workspace().join("tests/vm/tests/suite/local_disks/foreign.sh");
    let with = overlay().file("/usr/bin/nap-make-volume", artifact("nap-make-volume").unwrap(), 0o755).file(
        "/usr/lib/nap-vm/foreign.sh",
        script,
        0o755,
    );
    let mut options = azure.vm("foreign-disks", with, &azure.bootstrap());
    options.kernel_arguments = "nvme_core.multipath=N".to_owned();
    let disk = |name: &str, bytes, content| DataDisk { name: name.to_owned(), bytes, content, bus: Bus::Virtio };
    let corpus = disk("corpus", STRIDE * CORPUS.len() as u64, content);
    options.disks = [corpus, disk("local-blank", 1 << 30, Vec::new())].into_iter().chain(namespaces()).collect();
    let mut vm = Vm::start_with(lock, &Image::build().unwrap(), &options).unwrap();
    drop(folder);
    assert_eq!(wait_for_agent(&mut vm), 0);
    assert_namespaces_are_told_apart(&mut vm, "/var/lib/nap-agent/facts.json");
    told(&mut vm, "sync");
    let before = ["corpus", "local-blank"].map(|name| vm.data_disk_digest(name).unwrap());

    let mut wrong = String::new();
    for (kind, number) in CORPUS.iter().zip(0_u64..) {
        let at = number * STRIDE;
        let command = format!("/usr/lib/nap-vm/foreign.sh {at} {BYTES}");
        let output = vm.run(&command, COMMAND).unwrap();
        let answers: Vec<_> = output.text.lines().filter(|line| line.starts_with("answer: ")).collect();
        // A partition that the kernel knows is told before any byte is looked at.
        let is_refusal = |line: &&&str| line.contains("LocalDiskForeignData") || line.contains("LocalDiskInUse");
        let refused = answers.iter().filter(is_refusal).count();
        if output.status != 0 || answers.len() != 2 || refused != 2 {
            writeln!(wrong, "{}: status {}\n{}", kind.name, output.status, output.text).unwrap();
        }
    }
    told(&mut vm, "sync");
    let after = ["corpus", "local-blank"].map(|name| vm.data_disk_digest(name).unwrap());
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(after, before, "a foreign or blank disk was written to");
    note(format_args!("{} kinds of foreign data, alone and beside a blank disk: refused, unchanged", CORPUS.len()));

    // The same program on the blank disk alone makes a file system: it could have.
    let output = vm.run("nap-make-volume local-blank", BOOT).unwrap();
    assert!(output.text.contains("made: [\"disks.volume\"]"), "{}", output.text);
    assert_ne!(vm.data_disk_digest("local-blank").unwrap(), before[1]);
}
