#!/bin/bash
# What nodeadm's setup-local-disks does for RAID0 (awslabs/amazon-eks-ami, 2026), told again: the same programs in the same order, one file
# system and three bind mounts. Nothing but the peer in the benchmark of local disks: it looks at no disk before it writes to it.
set -euo pipefail
disks=("$@")
top=/mnt/k8s-disks/0
units=/etc/systemd/system

mount_unit() { # mount_unit WHAT WHERE TYPE OPTIONS
    local name
    name=$(systemd-escape --path --suffix=mount "$2")
    printf '[Mount]\nWhat=%s\nWhere=%s\nType=%s\nOptions=%s\n[Install]\nWantedBy=multi-user.target\n' "$@" >"$units/$name"
    systemd-analyze verify --man=no "$name"
    systemctl enable "$name" --now
}

mapfile -t disks < <(realpath "${disks[@]}" | sort -u)
mdadm --create --force --verbose /dev/md/kubernetes --level=0 --name=kubernetes --raid-devices=${#disks[@]} "${disks[@]}"
mdadm --detail --scan >/run/peer-mdadm.conf
array=$(find /dev/md/ -type l -name 'kubernetes*' | tail -n 1)
[ -n "$(lsblk "$array" -o fstype --noheadings)" ] || mkfs.xfs -K -l su=8b "$array"
mkdir -p $top
mount_unit "UUID=$(blkid -s UUID -o value "$array")" $top xfs defaults,noatime

running=
for directory in /var/lib/kubelet /var/lib/containerd /var/log/pods; do
    [ "$(systemctl is-active "$(systemd-escape --path --suffix=mount $directory)")" != active ] || continue
    case $directory in */containerd) service=containerd ;; *) service=kubelet ;; esac
    ! systemctl is-active $service >/dev/null || running+=" $service"
done
[ -z "$running" ] || systemctl stop $running
for directory in /var/lib/kubelet /var/lib/containerd /var/log/pods; do
    mkdir -p $directory
    cp -a $directory/ $top/"$(basename $directory)"/
    mount_unit $top/"$(basename $directory)" $directory none bind
done
[ -z "$running" ] || systemctl start $running
