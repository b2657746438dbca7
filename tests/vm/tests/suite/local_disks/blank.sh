#!/bin/bash
# Undoes what cost.sh measured: nothing mounted, no array, no unit, blank disks.
set -eu
for directory in /var/lib/kubelet/pki /var/lib/kubelet /var/lib/containerd /var/log/pods /var/lib/ephemeral /mnt/k8s-disks/0; do
    ! mountpoint -q $directory || umount $directory
done
mdadm --stop --scan
for disk in "$@"; do blkdiscard -f "$disk"; done
rm -f /etc/systemd/system/*.mount /etc/systemd/system/*.wants/*.mount /var/lib/nap-agent/disks.json /run/nap-agent/disks-ready
systemctl daemon-reload
systemctl reset-failed
udevadm settle
