#!/bin/bash
# Makes of each virtio disk whose serial number begins with "local" an NVMe disk with Azure's model, by the kernel's own NVMe target.
# Disks are named against their order, as on Azure. Run again, it makes those that are not there yet.
set -eu
modprobe -a virtio_blk nvmet nvme-loop
mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
target=/sys/kernel/config/nvmet
mkdir -p $target/ports/1
[ "$(cat $target/ports/1/addr_trtype)" = loop ] || echo loop >$target/ports/1/addr_trtype
for disk in $(ls -dr /sys/block/vd*); do
    serial=$(cat "$disk/serial")
    subsystem=$target/subsystems/nqn.2026-11.test.nap-vm:$serial
    case $serial in local*) ;; *) continue ;; esac
    [ ! -e "$subsystem" ] || continue
    mkdir "$subsystem"
    echo 1 >"$subsystem/attr_allow_any_host"
    printf 'Microsoft NVMe Direct Disk v2' >"$subsystem/attr_model"
    printf %s "$serial" >"$subsystem/attr_serial"
    mkdir "$subsystem/namespaces/1"
    printf %s "/dev/${disk##*/}" >"$subsystem/namespaces/1/device_path"
    echo 1 >"$subsystem/namespaces/1/enable"
    ln -s "$subsystem" "$target/ports/1/subsystems/"
    echo "transport=loop,nqn=${subsystem##*/}" >/dev/nvme-fabrics
done
