//! Baking: again, after a kill, and what `check` says of an image with a piece missing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nap_packages::{Changed, target};
use serde_json::Value;
use tempfile::TempDir;

const VICTIM: &str = env!("CARGO_BIN_EXE_nap-bake-victim");

/// A root with nothing but its name: nothing in it can be started.
fn bare_root() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/os-release"), "ID=ubuntu\nVERSION_ID=\"24.04\"\n").unwrap();
    root
}

/// Every file by path with its mode and content.
fn state(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let meta = entry.metadata().unwrap();
            let content = if meta.is_dir() { Vec::new() } else { fs::read(entry.path()).unwrap() };
            if meta.is_dir() {
                open.push(entry.path());
            }
            found.insert(entry.path().strip_prefix(root).unwrap().to_owned(), (meta.permissions().mode(), content));
        }
    }
    found
}

fn baked(root: &Path) -> (usize, String) {
    let output = Command::new(VICTIM).arg(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let (passed, changed) = said.trim_end().split_once(' ').unwrap_or((said.trim(), ""));
    (passed.parse().unwrap(), changed.to_owned())
}

#[test]
fn a_bake_killed_anywhere_is_finished_by_the_next_and_a_second_one_changes_nothing() {
    let undisturbed = bare_root();
    let (checkpoints, changed) = baked(undisturbed.path());
    assert_eq!(changed.split(',').count(), 11, "{changed}");
    let wanted = state(undisturbed.path());
    assert_eq!(baked(undisturbed.path()).1, "");
    assert!(state(undisturbed.path()) == wanted, "a second bake leaves no trace");
    for number in 0..checkpoints {
        let root = bare_root();
        let killed = Command::new(VICTIM).arg(root.path()).arg(number.to_string()).output().unwrap();
        assert!(!killed.status.success(), "checkpoint {number} was not reached");
        baked(root.path());
        assert!(state(root.path()) == wanted, "after a kill at checkpoint {number}");
    }
}

/// A Debian with programs that say what they see, as far as an image's may.
fn image() -> Changed {
    let image = Changed::root("debian-13");
    let programs = [
        (
            "/opt/bin/kubelet",
            "id -u; id -G; cat /proc/self/stat 2>/dev/null; touch /etc/owned && exit 1; echo Kubernetes v1.34.2",
        ),
        (
            "/usr/bin/containerd",
            "[ $(wc -l </proc/net/dev) -le 3 ] || exit 1; echo containerd containerd.io v2.1.9 abc",
        ),
        ("/usr/sbin/runc", "echo runc version 1.3.0"),
        ("/usr/sbin/nft", "touch /etc/started"),
    ];
    for (path, body) in programs {
        let script =
            format!("mkdir -p $(dirname {path}) && printf '#!/bin/sh\\n%s\\n' '{body}' >{path} && chmod 755 {path}");
        image.run(&["sh", "-c", &script]);
    }
    let modules = "mkdir -p /usr/lib/modules/6.12.0 && cd /usr/lib/modules/6.12.0 && for name in overlay br_netfilter nf_conntrack; do \
                   echo kernel/$name.ko: >>modules.dep; done";
    let units = "cd /usr/lib/systemd/system && for name in nap-boot nap-agent containerd; do printf '[Service]\\nExecStart=/bin/true\\n\
                 [Install]\\nWantedBy=multi-user.target\\n' >$name.service; done; systemctl enable nap-boot.service nap-agent.service";
    image.run(&["sh", "-ec", modules]);
    image.run(&["sh", "-ec", units]);
    image
}

fn builder(image: &Changed, arguments: &[&str]) -> (Option<i32>, String) {
    let program = target().join("debug/nap-image-builder").to_string_lossy().into_owned();
    let mounted = image.mounted().to_string_lossy().into_owned();
    let output = image.try_run_outside(&[&[&program, arguments[0], "--root", &mounted], &arguments[1..]].concat());
    (output.status.code(), format!("{}{}", String::from_utf8_lossy(&output.stdout), complaints(&output.stderr)))
}

/// Without what is said of the work.
fn complaints(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr).into_owned();
    let work = |line: &&str| !["asking ", "stage ", "writing "].iter().any(|start| line.starts_with(start));
    text.lines().filter(work).map(|line| format!("{line}\n")).collect()
}

#[test]
fn an_image_with_everything_can_serve_and_each_missing_piece_is_named() {
    let image = image();
    let (code, said) = builder(&image, &["check"]);
    assert_eq!((code, said.as_str()), (Some(1), "missing: /etc/nap-agent/image.json: run `nap-image-builder bake`\n"));
    assert_eq!(builder(&image, &["bake"]).0, Some(0));
    assert_eq!(builder(&image, &["bake"]).1, "0 changed, 11 as they should be\n");
    assert_eq!(builder(&image, &["check"]), (Some(0), "this image can serve\n".to_owned()));
    let inventory: Value = serde_json::from_str(&image.run(&["cat", "/etc/nap-agent/image.json"])).unwrap();
    assert_eq!(inventory["programs"]["kubelet"], "1.34.2", "asked as nobody, without network: it could write nothing");
    assert_eq!(inventory["programs"]["containerd"], "2.1.9");
    assert_eq!(inventory["tools"]["/usr/sbin/runc"], "1.3.0");
    assert!(!image.try_run(&["ls", "/etc/started"]).status.success(), "what has no version to tell is not started");
    let wish = ["check", "--kubernetes-version", "1.35.0", "--network", "nodeSubnet"];
    let (code, said) = builder(&image, &wish);
    assert_eq!(code, Some(1));
    for piece in [
        "kubelet 1.34.2, the configuration wants Kubernetes 1.35.0",
        "/usr/lib/cni/azure-vnet;",
        "/usr/lib/cni/portmap;",
    ] {
        assert!(said.contains(piece), "{piece}: {said}");
    }
    for (harm, named) in [
        ("rm /opt/bin/kubelet", "missing: /opt/bin/kubelet: "),
        ("rm /usr/bin/containerd", "missing: /usr/bin/containerd: "),
        ("rm /usr/sbin/runc", "missing: /usr/sbin/runc: "),
        ("rm /usr/sbin/modprobe", "missing: /usr/sbin/modprobe: "),
        ("rm -r /usr/lib/modules/6.12.0", "missing: /usr/lib/modules: "),
        ("sed -i /overlay/d /usr/lib/modules/6.12.0/modules.dep", "missing: kernel module overlay: kernel 6.12.0 "),
        ("systemctl disable nap-boot.service", "missing: nap-boot.service: it is there and does not start"),
        ("systemctl mask nap-agent.service", "missing: nap-agent.service: "),
        ("rm /usr/lib/systemd/system/containerd.service", "missing: containerd.service: "),
        ("rm /usr/sbin/nft", "note: packet filter left out: /usr/sbin/nft is not there"),
    ] {
        let image = self::image();
        image.run(&["sh", "-c", harm]);
        builder(&image, &["bake"]);
        let (code, said) = builder(&image, &["check"]);
        assert!(said.lines().any(|line| line.starts_with(named)), "after `{harm}`: {said}");
        assert_eq!(code == Some(0), named.starts_with("note"), "after `{harm}`: {said}");
    }
}
