//! The boot matrix, and the guards over random topologies.

use super::*;
use crate::config::decode;
use crate::facts::superblock::UNKNOWN;

const VM: &str = "0f3c0000-0000-0000-0000-000000000000";

fn config(storage: &str) -> NodeConfig {
    let document = include_str!("../../../testdata/local-disks.yaml");
    let document = document.replace("localDisks: auto\n  use: [kubelet, containerd, podLogs, swap]", storage);
    decode(document.as_bytes()).unwrap().config.unwrap()
}

/// Facts with these disks and no others.
fn facts(disks: Vec<Disk>) -> Facts {
    let text = include_str!("../../../testdata/ubuntu-2404-local-disks.json");
    Facts { disks, ..serde_json::from_str(text).unwrap() }
}

fn local(serial: &str) -> Disk {
    Disk {
        name: format!("nvme{serial}n1"),
        bytes: 220 * GIB,
        transport: Transport::Nvme,
        model: "Microsoft NVMe Direct Disk".into(),
        serial: serial.into(),
        pci_vendors: vec!["0x1414".into()],
        content: Some(Content::Blank),
        ..Disk::default()
    }
}

fn with(disk: Disk, kind: &str, offset: u64, uuid: Option<&str>) -> Disk {
    let uuid = uuid.map(str::to_owned);
    let found = vec![Signature { kind: kind.into(), offset, uuid, label: None }];
    Disk { content: Some(Content::Occupied { found }), ..disk }
}

fn record(vm_id: &str, phase: Phase, array: Option<&str>, file_system: &str, members: &[&str]) -> Option<DiskRecord> {
    let volume = VolumeRecord {
        phase,
        array: array.map(str::to_owned),
        format: Format::Xfs,
        file_system: file_system.into(),
        members: members.iter().map(|serial| (*serial).to_owned()).collect(),
        replaces: Vec::new(),
    };
    Some(DiskRecord { vm_id: vm_id.into(), volumes: vec![volume] })
}

/// What comes of it: serials with `+` for "make" or `=` for "keep", one entry a volume; and the notes.
fn outcome(config: &NodeConfig, facts: &Facts) -> (Vec<String>, Vec<String>) {
    let disks = LocalDisks::new(config, facts);
    let one = |volume: &Volume| {
        let serials: Vec<_> = volume.members.iter().map(|member| member.serial.as_str()).collect();
        format!("{}{}", if volume.make { "+" } else { "=" }, serials.join(","))
    };
    (disks.volumes.iter().map(one).collect(), disks.notes.clone())
}

fn auto() -> NodeConfig {
    config("localDisks: auto")
}

/// Nothing is made, and this is the reason.
fn assert_refused(facts: &Facts, reason: &str) {
    let (volumes, notes) = outcome(&auto(), facts);
    assert_eq!(volumes, [""; 0]);
    assert!(notes.iter().any(|note| note.starts_with(reason)), "{notes:?}");
}

#[test]
fn nobody_asked_and_nothing_happens() {
    for storage in ["localDisks: none", "{}"] {
        let disks = LocalDisks::new(&config(storage), &facts(vec![local("a")]));
        assert_eq!(disks.stages(), []);
    }
}

#[test]
fn blank_disks_become_one_file_system_in_the_order_of_their_serials() {
    assert_eq!(outcome(&auto(), &facts(vec![])), (vec![], vec![]));
    assert_eq!(outcome(&auto(), &facts(vec![local("a")])).0, ["+a"]);
    assert_eq!(outcome(&auto(), &facts(vec![local("c"), local("a"), local("b")])).0, ["+a,b,c"]);
    assert_eq!(outcome(&config("localDisks: mount"), &facts(vec![local("b"), local("a")])).0, ["+a", "+b"]);
}

#[test]
fn each_boot_has_uuids_of_its_own_and_the_same_boot_the_same() {
    let volume = |facts: &Facts| LocalDisks::new(&auto(), facts).volumes.remove(0);
    let first = facts(vec![local("a"), local("b")]);
    assert_eq!(volume(&first), volume(&first));
    let later = Facts { boot_id: "another".into(), ..first.clone() };
    assert_ne!(volume(&first).array, volume(&later).array);
    assert_ne!(volume(&first).file_system, volume(&later).file_system);
    assert_ne!(Some(volume(&first).file_system), volume(&first).array);
}

#[test]
fn ours_stays_as_it_is() {
    let one = Facts {
        disk_record: record(VM, Phase::Ready, None, "fs", &["a"]),
        ..facts(vec![with(local("a"), "xfs", 0, Some("fs"))])
    };
    assert_eq!(outcome(&auto(), &one), (vec!["=a".to_owned()], vec![]));
    let member = |serial| with(local(serial), ARRAY_MEMBER, 4096, Some("array"));
    let two = Facts {
        disk_record: record(VM, Phase::Ready, Some("array"), "fs", &["b", "a"]),
        ..facts(vec![member("a"), member("b")])
    };
    assert_eq!(outcome(&auto(), &two), (vec!["=b,a".to_owned()], vec![]));
    // Data of pods that looks like a superblock lies behind those.
    let mut data = member("a");
    let Some(Content::Occupied { found }) = &mut data.content else { unreachable!() };
    found.push(Signature { kind: "btrfs".into(), offset: 65600, uuid: None, label: None });
    let two = Facts { disks: vec![data, member("b")], ..two };
    assert_eq!(outcome(&auto(), &two).0, ["=b,a"]);
}

#[test]
fn what_is_half_made_or_lost_a_member_is_made_anew_in_place_of_ours() {
    let member = |serial| with(local(serial), ARRAY_MEMBER, 4096, Some("array"));
    let cases = [
        // Killed between the array and its file system, or before the second superblock.
        (Phase::Creating, vec![member("a"), member("b")]),
        (Phase::Creating, vec![member("a"), local("b")]),
        // Redeployed: the record is on the OS disk, the disks are blank, and their serials may be others.
        (Phase::Ready, vec![local("a"), local("b")]),
        (Phase::Ready, vec![local("c"), local("d")]),
        // A member is blank, or gone.
        (Phase::Ready, vec![member("a"), local("b")]),
        (Phase::Ready, vec![member("a")]),
    ];
    for (phase, disks) in cases {
        let facts = Facts { disk_record: record(VM, phase, Some("array"), "fs", &["a", "b"]), ..facts(disks) };
        let volumes = LocalDisks::new(&auto(), &facts).volumes;
        assert_eq!(volumes.len(), 1, "{phase:?}");
        assert!(volumes[0].make);
        assert_eq!(volumes[0].replaces, ["array", "fs"]);
        assert_eq!(volumes[0].members.len(), facts.disks.len());
        assert!(facts.disks.iter().all(|disk| volumes[0].may_overwrite(disk.content.as_ref())));
    }
}

#[test]
fn one_foreign_disk_keeps_all_from_being_touched() {
    let ours = record(VM, Phase::Ready, Some("array"), "fs", &["a", "b"]);
    let foreign = [
        with(local("b"), "ext4", 1024, Some("somebody")),
        with(local("b"), "gpt", 512, None),
        with(local("b"), UNKNOWN, 3 << 20, None),
        with(local("b"), ARRAY_MEMBER, 4096, Some("somebody")),
        with(local("b"), ARRAY_MEMBER, 4096, None),
        // Something without a superblock of ours, and something beside it.
        with(local("b"), UNKNOWN, 9000, Some("array")),
        Disk { content: Some(Content::Unreadable { why: "os error 5".into() }), ..local("b") },
        Disk { content: None, ..local("b") },
        Disk { used_by: vec!["dm-0".into()], ..local("b") },
    ];
    for disk in foreign {
        let facts = Facts { disk_record: ours.clone(), ..facts(vec![local("a"), disk.clone()]) };
        assert_refused(&facts, "LocalDiskForeignData");
        let (_, notes) = outcome(&auto(), &facts);
        assert!(notes[0].contains(&disk.name), "{notes:?}");
    }
}

#[test]
fn a_record_of_another_vm_proves_nothing() {
    let disk = with(local("a"), "xfs", 0, Some("fs"));
    let record = record("another", Phase::Ready, None, "fs", &["a"]);
    assert_refused(&Facts { disk_record: record, ..facts(vec![disk]) }, "LocalDiskForeignData");
}

#[test]
fn disks_that_cannot_be_told_apart_are_left() {
    assert_refused(&facts(vec![local("a"), local("a")]), "LocalDiskUnidentified");
    assert_refused(&facts(vec![local("")]), "LocalDiskUnidentified");
}

#[test]
fn an_image_without_tools_does_what_it_can_and_says_so() {
    let without = |tools: &[&str]| {
        let mut facts = facts(vec![local("a"), Disk { bytes: 440 * GIB, ..local("b") }]);
        facts.present.retain(|path| !tools.contains(&path.as_str()));
        facts
    };
    assert_eq!(outcome(&auto(), &without(&[MDADM])).0, ["+b"], "the larger one");
    let (volumes, notes) = outcome(&config("localDisks: raid0"), &without(&[MDADM]));
    assert_eq!((volumes.len(), notes.len()), (0, 1));
    assert!(notes[0].starts_with("LocalDiskToolMissing: 2 disks need /usr/sbin/mdadm"), "{notes:?}");
    let format = |facts: &Facts| LocalDisks::new(&auto(), facts).volumes.first().map(|volume| volume.format);
    assert_eq!(format(&without(&[])), Some(Format::Xfs));
    assert_eq!(format(&without(&[MKFS_XFS])), Some(Format::Ext4));
    let mut no_module = without(&[]);
    no_module.kernel.xfs = false;
    assert_eq!(format(&no_module), Some(Format::Ext4));
    assert_refused(&without(&[MKFS_XFS, MKFS_EXT4]), "LocalDiskToolMissing");
}

#[test]
fn kubelet_never_gets_less_than_was_advertised_and_containerd_is_not_copied_for_ever() {
    let moved = |facts: &Facts, storage: &str| {
        let disks = LocalDisks::new(&config(storage), facts);
        (disks.moved.into_iter().collect::<Vec<_>>(), disks.notes)
    };
    let roomy = facts(vec![local("a")]);
    assert_eq!(moved(&roomy, "localDisks: auto").0, [Use::Kubelet, Use::Containerd, Use::PodLogs]);
    let small = facts(vec![Disk { bytes: 110 * GIB, ..local("a") }]);
    let (small, notes) = moved(&small, "localDisks: auto");
    assert_eq!(small, [Use::Containerd, Use::PodLogs]);
    assert!(
        notes[0].starts_with("LocalDiskTooSmall") && notes[0].contains("128") && notes[0].contains("110"),
        "{notes:?}"
    );
    for bytes in [None, Some(3 * GIB)] {
        let full = Facts { containerd_bytes: bytes, ..roomy.clone() };
        assert_eq!(moved(&full, "localDisks: auto").0, [Use::Kubelet, Use::PodLogs]);
    }
    let full = Facts { containerd_bytes: Some(3 * GIB), ..roomy.clone() };
    assert_eq!(moved(&full, "{localDisks: auto, copyLimitMiB: 4000, use: [containerd]}").0, [Use::Containerd]);
}

#[test]
fn the_temporary_disk_is_used_through_cloud_inits_mount_alone() {
    let temporary = |used_by: &[&str]| Disk {
        name: "sdb".into(),
        bytes: 300 * GIB,
        transport: Transport::Scsi,
        temporary: true,
        used_by: used_by.iter().map(|user| (*user).to_owned()).collect(),
        ..Disk::default()
    };
    let mounted = facts(vec![temporary(&["sdb1", "/mnt"])]);
    for storage in ["localDisks: auto", "localDisks: temporary"] {
        let disks = LocalDisks::new(&config(storage), &mounted);
        assert_eq!((disks.volumes.len(), disks.base.as_ref().map(|(base, _)| base.as_str())), (0, Some("/mnt/aks")));
        assert!(
            disks.stages().iter().flat_map(|stage| &stage.steps).all(|step| !matches!(step.want, Want::Volume { .. }))
        );
    }
    assert_refused(&facts(vec![temporary(&["sdb1"])]), "LocalDiskMissing");
    let disks = LocalDisks::new(&auto(), &facts(vec![temporary(&["/mnt"]), local("a")]));
    assert_eq!(disks.volumes.len(), 1, "NVMe goes before it");
}

#[test]
fn disks_that_failed_in_this_boot_are_not_tried_again() {
    let facts = Facts { local_disks_failure: Some("mdadm said no".into()), ..facts(vec![local("a")]) };
    assert_refused(&facts, "LocalDiskFailed: mdadm said no");
}

#[test]
fn read_ahead_and_timeouts_of_remote_disks_are_brought_down_to_earth() {
    let text = include_str!("../../../testdata/ubuntu-2404-local-disks.json");
    let steps = queues(&serde_json::from_str(text).unwrap());
    let set: Vec<_> = steps
        .iter()
        .map(|step| match &step.want {
            Want::Choice { path, value } => format!("{path}={value}"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        set,
        [
            "/sys/block/nvme0n1/queue/read_ahead_kb=256",
            "/sys/block/nvme0n1/queue/io_timeout=240000",
            "/sys/block/nvme0n2/queue/read_ahead_kb=128"
        ]
    );
}

/// Random choices without a library's bookkeeping: a hundred thousand topologies in a second. (xorshift; Marsaglia's numbers.)
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Mostly the first, which is what a disk of ours has.
    fn pick<T: Clone>(&mut self, usual: T, others: &[T]) -> T {
        let number = self.next() >> 11;
        let unusual = number.is_multiple_of(6);
        if unusual { others[(number >> 8) as usize % others.len()].clone() } else { usual }
    }

    fn content(&mut self) -> Option<Content> {
        let ours = Signature { kind: "xfs".into(), offset: 0, uuid: Some("ours".into()), label: None };
        let signature = |kind: &str, offset, uuid: Option<&str>| Signature {
            kind: kind.into(),
            offset,
            uuid: uuid.map(str::to_owned),
            label: None,
        };
        let others = [
            signature(ARRAY_MEMBER, 4096, Some("ours")),
            signature("ext4", 1024, Some("theirs")),
            signature("LVM2_member", 512, Some("ours")),
            signature(UNKNOWN, 1 << 20, None),
            signature("btrfs", 65600, Some("ours")),
        ];
        let mut found = vec![self.pick(ours, &others)];
        if self.next().is_multiple_of(4) {
            found.push(self.pick(others[0].clone(), &others));
        }
        let occupied = Some(Content::Occupied { found });
        let unreadable = Some(Content::Unreadable { why: "EIO".into() });
        let usual = if self.next().is_multiple_of(2) { Some(Content::Blank) } else { occupied };
        self.pick(usual, &[unreadable, None])
    }

    fn disk(&mut self, serial: u64) -> Disk {
        let said = self.pick(Some("local"), &[None, Some("data")]);
        let vendors = self.pick(vec!["0x1414"], &[vec![], vec!["0x1b36"], vec!["0x1414", "0x1b36"]]);
        let model =
            if self.next().is_multiple_of(2) { "Microsoft NVMe Direct Disk" } else { "Microsoft NVMe Direct Disk v2" };
        let models = ["Microsoft NVMe Direct Disk v3", "MSFT NVMe Accelerator v1.0", "microsoft nvme direct disk", ""];
        Disk {
            name: format!("disk{serial}"),
            bytes: 200 * GIB,
            transport: self.pick(Transport::Nvme, &[Transport::Scsi, Transport::Other]),
            model: self.pick(model, &models).into(),
            serial: self.pick(serial.to_string(), &["0".into(), String::new()]),
            pci_vendors: vendors.into_iter().map(str::to_owned).collect(),
            identify: said.map(|kind| ("type".to_owned(), kind.to_owned())).into_iter().collect(),
            system: self.pick(false, &[false, true]),
            temporary: self.pick(false, &[false, true]),
            used_by: self.pick(vec![], &[vec!["/data".to_owned()], vec!["md127".to_owned()]]),
            content: self.content(),
            ..Disk::default()
        }
    }
}

/// The three guards, told once more without the code that they guard.
fn may_be_written_to(disk: &Disk, has_record: bool) -> bool {
    let is_local = disk.transport == Transport::Nvme
        && ["Microsoft NVMe Direct Disk", "Microsoft NVMe Direct Disk v2"].iter().any(|model| disk.model == *model)
        && !disk.pci_vendors.iter().any(|vendor| vendor != "0x1414")
        && disk.identify.get("type").is_none_or(|kind| kind == "local")
        && !(disk.system || disk.temporary);
    let is_free = match &disk.content {
        Some(Content::Blank) => disk.used_by.is_empty(),
        Some(Content::Occupied { found }) => {
            let mut first = found.iter().filter(|signature| signature.offset < 8192).peekable();
            let known = ["xfs", "ext4", "linux_raid_member"];
            has_record
                && first.peek().is_some()
                && first.all(|one| one.uuid.as_deref() == Some("ours") && known.contains(&one.kind.as_str()))
        }
        Some(Content::Unreadable { .. }) | None => false,
    };
    is_local && is_free
}

#[test]
fn no_plan_over_random_topologies_names_a_disk_that_is_not_local_and_blank_or_ours() {
    let (mut random, mut facts, mut named) = (Random(0x2545_f491_4f6c_dd1d), facts(vec![]), 0);
    for round in 0..150_000_u64 {
        let count = random.next() % 5;
        facts.disks = (0..count).map(|serial| random.disk(serial)).collect();
        let phase = random.pick(Phase::Ready, &[Phase::Creating]);
        let vm_id = random.pick(VM, &["another"]);
        let serials: Vec<_> = facts.disks.iter().map(|disk| disk.serial.clone()).collect();
        let serials: Vec<_> = serials.iter().map(String::as_str).collect();
        facts.disk_record = random.pick(record(vm_id, phase, None, "ours", &serials), &[None]);
        let has_record = facts.disk_record.as_ref().is_some_and(|record| record.vm_id == VM);
        let wish = random.pick(Wish::Auto, &[Wish::Raid0, Wish::Mount, Wish::Temporary]);
        let Ok(Layout::Volumes(volumes)) = layout(wish, &facts) else { continue };
        for member in volumes.iter().flat_map(|volume| &volume.members) {
            let disks = facts.disks.iter().filter(|disk| disk.serial == member.serial && disk.is_local());
            let disks: Vec<_> = disks.collect();
            assert!(disks.len() == 1 && may_be_written_to(disks[0], has_record), "round {round}: {disks:#?}");
            named += 1;
        }
    }
    assert!(named > 20_000, "the topologies must be such that disks are used, too: {named}");
}
