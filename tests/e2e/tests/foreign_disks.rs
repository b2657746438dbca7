//! The foreign-data corpus: what others put on disks, made with their own tools, is never taken for blank or ours. blkid(8) and
//! wipefs(8) are the second opinion.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nap_e2e::corpus::{BYTES, CORPUS, asked, make, prepare, program};
use nap_model::facts::disks::Format;
use nap_model::facts::superblock::{self, Content};
use nap_model::plan::{Member, Volume};

fn looked_at(path: &Path) -> Content {
    let file = File::open(path).unwrap();
    superblock::examine(file.metadata().unwrap().len(), |offset, length| {
        let mut part = vec![0; length];
        file.read_exact_at(&mut part, offset).map(|()| part)
    })
}

/// A volume of ours that would like every disk.
fn volume() -> Volume {
    Volume {
        vm_id: "vm".into(),
        members: vec![Member { serial: "s".into(), bytes: BYTES }],
        array: Some("186be55d-77fc-828d-87ca-1b4895db4927".into()),
        format: Format::Xfs,
        file_system: "d6af6e79-2296-8c1f-86c5-b5b1f1124e6f".into(),
        make: true,
        replaces: vec!["00000000-0000-0000-0000-000000000000".into()],
    }
}

#[test]
fn nothing_that_others_made_is_blank_or_ours() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let mut wrong = Vec::new();
    for image in CORPUS {
        let path = make(image, folder.path());
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        let content = looked_at(&path);
        let Content::Occupied { found } = &content else {
            wrong.push(format!("{}: {content:?}", image.name));
            continue;
        };
        if !found.iter().any(|signature| signature.kind == image.ours) {
            wrong.push(format!("{}: {content:?} instead of {}", image.name, image.ours));
        }
        if volume().may_overwrite(Some(&content)) || volume().is_on(Some(&content)) {
            wrong.push(format!("{}: taken for ours", image.name));
        }
        let file = path.to_string_lossy();
        let blkid = asked(&["blkid", "-p", "-o", "export", &file]);
        let kinds: Vec<_> =
            blkid.lines().filter_map(|line| line.strip_prefix("TYPE=").or(line.strip_prefix("PTTYPE="))).collect();
        let wipefs = asked(&["wipefs", "--no-act", "--noheadings", "--output", "TYPE", &file]);
        match image.blkid {
            Some(kind) if !(kinds.contains(&kind) && wipefs.contains(kind)) => {
                wrong.push(format!("{}: blkid says {kinds:?}, wipefs {wipefs:?}, and not {kind}", image.name));
            }
            None if !kinds.is_empty() => wrong.push(format!("{}: blkid knows it: {kinds:?}", image.name)),
            _ => {}
        }
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before, "looking changes nothing");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(CORPUS.len() >= 40);
}

#[test]
fn blank_is_what_has_nothing_on_it_and_our_own_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    File::create(&path).unwrap().set_len(BYTES).unwrap();
    assert_eq!(looked_at(&path), Content::Blank);
    let ours = Volume { array: None, ..volume() };
    assert!(ours.may_overwrite(Some(&looked_at(&path))));
    for (format, program_of_it) in [
        (Format::Xfs, ["mkfs.xfs", "-q", "-f", "-m", "uuid=d6af6e79-2296-8c1f-86c5-b5b1f1124e6f", "IMAGE"].as_slice()),
        (Format::Ext4, ["mkfs.ext4", "-q", "-F", "-U", "d6af6e79-2296-8c1f-86c5-b5b1f1124e6f", "IMAGE"].as_slice()),
    ] {
        program(program_of_it, &path, folder.path());
        let content = looked_at(&path);
        let ours = Volume { format, ..ours.clone() };
        assert!(ours.is_on(Some(&content)) && ours.may_overwrite(Some(&content)), "{content:?}");
        let other = Volume { file_system: "186be55d-77fc-828d-87ca-1b4895db4928".into(), ..ours };
        assert!(!other.is_on(Some(&content)) && !other.may_overwrite(Some(&content)), "{content:?}");
    }
}
