//! What is done to the machine, round by round: several faults at once where they do not touch.

use crate::guest::give_up;

/// One fault: how to do it, the reasons it must have, how to undo it.
pub(super) struct Injection {
    pub(super) reasons: &'static [&'static str],
    pub(super) inject: &'static str,
    pub(super) remove: &'static str,
    pub(super) clears: Clears,
}

/// When it is gone after it was undone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Clears {
    /// Within minutes: waited for before the next round.
    Soon,
    /// What it grew by has to leave a window of ten minutes at most: waited for in the end.
    Late,
    /// A window of half an hour, or a reboot.
    Not(&'static str),
}

impl Injection {
    const fn clears(self, clears: Clears) -> Self {
        Self { clears, ..self }
    }
}

const fn injection(reasons: &'static [&'static str], inject: &'static str, remove: &'static str) -> Injection {
    Injection { reasons, inject, remove, clears: Clears::Soon }
}

/// A program that holds what a leak would.
pub(super) const HOLD: &str = "/usr/lib/nap-vm/hold.py";

/// containerd's state on a disk of its own, small in every way, that goes read-only at an error.
pub(super) const SETUP: &str = "systemctl stop kubelet containerd && cp /disk.img /used.img \
    && mount -o loop,errors=remount-ro /used.img /var/lib/containerd \
    && systemctl start containerd kubelet && df -i /var/lib/containerd | tail -n 1";

/// A kubelet's certificate that ended yesterday.
pub(super) const EXPIRED: &str = "/expired.pem";

/// What is done at the same time, round by round.
pub(super) const ROUNDS: &[&[Injection]] = &[
    &[
        injection(
            &["ContainerdUnresponsive"],
            "kill -STOP $(pidof -s containerd)",
            "pkill -CONT -x containerd",
        ),
        injection(
            &["KubeletDown", "KubeletCrashLooping"],
            "mv /opt/bin/kubelet /opt/bin/away && systemctl kill --signal KILL kubelet",
            "mv /opt/bin/away /opt/bin/kubelet && systemctl restart --no-block kubelet",
        )
        .clears(Clears::Late),
        injection(
            &["InodesExhausted"],
            "cd /var/lib/containerd && mkdir many && cd many && seq 1100 | xargs touch 2>/dev/null; true",
            "rm -r /var/lib/containerd/many",
        ),
    ],
    &[
        injection(
            &["CniNotReady"],
            "mv /etc/cni/net.d/10-nap-vm.conflist /run",
            "mv /run/10-nap-vm.conflist /etc/cni/net.d",
        ),
        injection(
            &["DiskFull"],
            "dd if=/dev/zero of=/var/lib/containerd/fill bs=1M 2>/dev/null; true",
            "rm /var/lib/containerd/fill",
        ),
        // systemd's watchdog may have killed it by then.
        injection(&["KubeletUnresponsive"], "kill -STOP $(pidof -s kubelet)", "pkill -CONT -x kubelet || true"),
        injection(
            &["ClientCertificateExpired", "ClientCertificateExpiring"],
            "mount --bind /expired.pem $(readlink -f /var/lib/kubelet/pki/kubelet-client-current.pem)",
            "umount $(readlink -f /var/lib/kubelet/pki/kubelet-client-current.pem)",
        ),
        injection(
            &["TaskHung"],
            "cp /disk.img /frozen.img && mkdir -p /mnt/frozen && mount -o loop /frozen.img /mnt/frozen \
             && fsfreeze -f /mnt/frozen && systemd-run --quiet --unit=hung touch /mnt/frozen/file",
            "fsfreeze -u /mnt/frozen && until umount /mnt/frozen; do sleep 0.2; done",
        ),
    ],
    // A leak is as good as real where the limit comes down to what is used. What needs a new process is first, and the rest must not fail for it.
    &[
        injection(
            &["ServiceFilesExhausted"],
            "systemd-run --quiet --unit=hold-files --property=Type=notify python3 /usr/lib/nap-vm/hold.py files \
             && pid=$(pidof -s containerd) && files=$(ls /proc/$pid/fd | wc -l) && prlimit --pid $pid --nofile=$((files + files / 40))",
            "prlimit --pid $(pidof -s containerd) --nofile=1048576 && systemctl stop hold-files",
        ),
        injection(
            &["KernelMemoryHigh"],
            "systemd-run --quiet --unit=hold-memory --property=Type=notify --property=TimeoutStartSec=110 \
             python3 /usr/lib/nap-vm/hold.py memory",
            "systemctl stop hold-memory",
        ),
        injection(
            &["TcpMemoryExhausted"],
            "cat /proc/sys/net/ipv4/tcp_mem >/run/tcp_mem \
             && systemd-run --quiet --unit=hold-tcp --property=Type=notify python3 /usr/lib/nap-vm/hold.py tcp \
             && pages=$(awk '$1 == \"TCP:\" {print $11}' /proc/net/sockstat) \
             && sysctl -w net.ipv4.tcp_mem=\"$pages $pages $((pages + pages / 40))\"",
            "systemctl stop hold-tcp; sysctl -w net.ipv4.tcp_mem=\"$(cat /run/tcp_mem)\"",
        ),
        injection(
            &["ZombieProcesses"],
            "cat /proc/sys/kernel/threads-max >/run/threads-max \
             && systemd-run --quiet --unit=zombies sh -c 'for i in $(seq 320); do true & done; exec sleep infinity' \
             && sysctl -w kernel.threads-max=3300",
            "systemctl stop zombies; sysctl -w kernel.threads-max=$(cat /run/threads-max)",
        ),
        injection(
            &["FileHandlesExhausted"],
            "cat /proc/sys/fs/file-max >/run/file-max && files=$(cut -f 1 /proc/sys/fs/file-nr) && sysctl -w fs.file-max=$((files + files / 40))",
            "sysctl -w fs.file-max=$(cat /run/file-max)",
        ),
        injection(
            &["MountsLeaking"],
            "sysctl -w fs.mount-max=$(($(wc -l </proc/self/mountinfo) + 1))",
            "sysctl -w fs.mount-max=100000",
        ),
        injection(
            &["KeysExhausted"],
            "sysctl -w kernel.keys.root_maxkeys=$(awk '$1 == \"0:\" {split($4, keys, \"/\"); print keys[1]}' /proc/key-users)",
            "sysctl -w kernel.keys.root_maxkeys=1000000",
        ),
        injection(
            &["ResolvConfInvalid"],
            "mv /etc/resolv.conf /run/resolv.away",
            "mv /run/resolv.away /etc/resolv.conf",
        ),
        injection(
            &["DefaultRouteMissing"],
            "ip -4 route show default >/run/routes; while ip -4 route del default 2>/dev/null; do :; done",
            "while read -r route; do ip route replace $route; done </run/routes",
        ),
    ],
    &[
        injection(&["KubeletStopped"], "systemctl stop kubelet", "systemctl start kubelet"),
        injection(&["ResolvedDown"], GIVE_UP_RESOLVED, "systemctl reset-failed systemd-resolved; systemctl start systemd-resolved"),
        injection(&["NetworkdDown"], GIVE_UP_NETWORKD, "systemctl reset-failed systemd-networkd; systemctl start systemd-networkd"),
        injection(&["ChronydDown"], "systemctl start chronyd || true", "systemctl reset-failed chronyd"),
        injection(
            &["ConfigurationDrift"],
            "cp -a /etc/kubernetes/azure.json /run/azure.json && echo drifted >/etc/kubernetes/azure.json",
            "cp -a /run/azure.json /etc/kubernetes/azure.json",
        ),
        // networkd, when it starts again, takes away what it does not know.
        injection(
            &["APIServerUnreachable"],
            "ip route add prohibit 168.61.0.10/32",
            "ip route del prohibit 168.61.0.10/32 || true",
        ),
        injection(
            &["ImdsUnreachable"],
            "ip route add prohibit 169.254.169.254/32",
            "ip route del prohibit 169.254.169.254/32 || true",
        ),
    ],
    &[
        // Entries that nothing has answered make room for new ones, so nothing is dropped.
        injection(
            &["ConntrackExhausted"],
            "for port in $(seq 400); do \
             conntrack -I -p udp -s 10.9.0.1 -d 10.9.0.2 --sport $port --dport 9 --timeout 3600 >/dev/null 2>&1; done; \
             sysctl -w net.netfilter.nf_conntrack_max=$(cat /proc/sys/net/netfilter/nf_conntrack_count)",
            "sysctl -w net.netfilter.nf_conntrack_max=65536 && conntrack -D -s 10.9.0.1 >/dev/null 2>&1",
        ),
        // Addresses of the node's own network that nobody has.
        injection(
            &["NeighbourTableFull"],
            "cd /proc/sys/net/ipv4/neigh/default && old=$(cat gc_thresh1 gc_thresh2 gc_thresh3 | xargs) && echo $old >/run/neighbours \
             && for i in 1 2 3; do echo 1 >gc_thresh$i; done; \
             for host in $(seq 20 60); do (echo >/dev/udp/168.61.1.$host/9) 2>/dev/null; done; true",
            "cd /proc/sys/net/ipv4/neigh/default && read -r one two three </run/neighbours \
             && echo $three >gc_thresh3 && echo $two >gc_thresh2 && echo $one >gc_thresh1",
        )
        .clears(Clears::Late),
        // So a write of 4 KiB takes 13 seconds, and only the agent's own.
        injection(
            &["DiskSlow"],
            "echo \"$(cat /sys/class/block/$(basename $(findmnt -n -o SOURCE /var/lib/containerd))/dev) wbps=300\" \
             >/sys/fs/cgroup/system.slice/nap-agent.service/io.max",
            "echo \"$(cat /sys/class/block/$(basename $(findmnt -n -o SOURCE /var/lib/containerd))/dev) wbps=max\" \
             >/sys/fs/cgroup/system.slice/nap-agent.service/io.max",
        ),
    ],
    &[injection(
        &["ContainerdDown", "ContainerdCrashLooping"],
        "mv /usr/bin/containerd /usr/bin/away && systemctl kill --kill-whom=main --signal KILL containerd",
        "mv /usr/bin/away /usr/bin/containerd; systemctl reset-failed containerd; systemctl restart --no-block containerd kubelet",
    )
    .clears(Clears::Late)],
    &[injection(&["DiskStalled"], "fsfreeze -f /var/lib/containerd", "fsfreeze -u /var/lib/containerd")],
    &[injection(
        &["MemoryStalled"],
        "systemd-run --quiet --unit=squeezed --property=MemoryHigh=20M sh -c 'for i in 1 2 3 4; do tail /dev/zero & done; wait'",
        "systemctl stop squeezed",
    )],
    // Its cgroup stands still, as the kernel lets any.
    &[injection(
        &["SystemdUnresponsive"],
        "echo 1 >/sys/fs/cgroup/init.scope/cgroup.freeze",
        "echo 0 >/sys/fs/cgroup/init.scope/cgroup.freeze",
    )],
    // Who has no process left cannot undo it either: the same shell waits, with nothing but what it can do by itself.
    &[injection(
        &["PidsExhausted"],
        "mkfifo /run/never; cat /proc/sys/kernel/threads-max >/run/threads-max; read -r old </run/threads-max; \
         read -r _ _ _ tasks _ </proc/loadavg; echo $((${tasks#*/} + 1)) >/proc/sys/kernel/threads-max; \
         read -r -t 80 _ <>/run/never; echo $old >/proc/sys/kernel/threads-max",
        "rm /run/never",
    )],
    &[
        // What a write gets after such an error is the kernel's to choose: EIO of Debian 13's (6.12), EROFS of older ones.
        injection(
            &["DataFilesystemFailing", "FilesystemErrors"],
            "echo injected >/sys/fs/ext4/$(basename $(findmnt -n -o SOURCE /var/lib/containerd))/trigger_fs_error",
            "umount -l /var/lib/containerd && cp /disk.img /other.img \
             && mount -o loop,errors=remount-ro /other.img /var/lib/containerd && systemctl restart containerd",
        )
        .clears(Clears::Late),
        injection(&["ContainerdStopped"], "systemctl stop containerd", "systemctl start containerd"),
    ],
    // The marks of a kernel stay until it goes, and so does a journald that systemd gave up until somebody starts it.
    &[
        injection(
            &["KernelOops", "MemoryCorruption", "HardwareError", "SoftLockup"],
            "sysctl -w kernel.tainted=$((1 << 4 | 1 << 5 | 1 << 7 | 1 << 14))",
            "true",
        )
        .clears(Clears::Not("by a reboot")),
        injection(&["JournaldDown"], GIVE_UP_JOURNALD, "systemctl reset-failed 'systemd-journald*'; systemctl start systemd-journald"),
    ],
];

/// Killed until systemd gives it up.
const GIVE_UP_RESOLVED: &str = give_up!("systemd-resolved");
const GIVE_UP_NETWORKD: &str = give_up!("systemd-networkd");
const GIVE_UP_JOURNALD: &str = give_up!("systemd-journald");
