//! The node's resolver where systemd-resolved has it, with the pretend systemd.

use std::path::Path;

use nap_host::local_dns::{point, restore, write_upstreams};
use nap_host::root::Root;
use nap_model::resolver;
use pretend_node::systemd::{PretendSystemd, Runner};

const DROP_IN: &str = "/run/systemd/resolved.conf.d/90-nap-agent-localdns.conf";

fn write(directory: &Path, path: &str, text: &str) {
    let path = directory.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[tokio::test]
async fn resolved_is_told_once_and_told_back_once() {
    let directory = tempfile::tempdir().unwrap();
    let unit = "usr/lib/systemd/system/systemd-resolved.service";
    write(directory.path(), unit, "[Service]\nType=notify\nExecStart=/usr/lib/systemd/systemd-resolved\n");
    write(directory.path(), "run/systemd/resolve/resolv.conf", "nameserver 169.254.10.10\nnameserver 10.0.0.4\n");
    std::fs::create_dir(directory.path().join("etc")).unwrap();
    let link = directory.path().join("etc/resolv.conf");
    std::os::unix::fs::symlink("../run/systemd/resolve/stub-resolv.conf", &link).unwrap();
    let systemd = PretendSystemd::start(directory.path(), Runner::Nothing).unwrap();
    let root = Root::open(directory.path()).unwrap();
    let restarts = || systemd.history().iter().filter(|call| call.unit == "systemd-resolved.service").count();

    assert_eq!(
        write_upstreams(&root).unwrap(),
        Some(vec![[10, 0, 0, 4].into()]),
        "its interfaces' servers, without us"
    );
    point(&root).await.unwrap();
    let told = restarts();
    assert!(told > 0);
    assert_eq!(root.read(DROP_IN).unwrap(), Some(resolver::resolved_drop_in().into_bytes()));
    point(&root).await.unwrap();
    assert_eq!(restarts(), told);

    restore(&root).await.unwrap();
    assert_eq!(root.read(DROP_IN).unwrap(), None);
    assert!(restarts() > told);
    let back = restarts();
    restore(&root).await.unwrap();
    assert_eq!(restarts(), back);
    assert!(link.is_symlink());
}
