#!/bin/bash
# Makes of each virtio disk whose serial number begins with "local" an NVMe disk with Azure's model, by the kernel's own NVMe target.
# Disks are named against their order, as on Azure. `local-a` comes over TCP, the others by the loop transport. Run again, it makes those
# that are not there yet.
set -eu
modprobe -a virtio_blk nvmet nvme-loop nvmet-tcp nvme-tcp
mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
target=/sys/kernel/config/nvmet
if [ ! -e $target/ports/1 ]; then
    mkdir $target/ports/1 $target/ports/2
    echo loop >$target/ports/1/addr_trtype
    ip link set lo up
    echo tcp >$target/ports/2/addr_trtype
    echo ipv4 >$target/ports/2/addr_adrfam
    echo 127.0.0.1 >$target/ports/2/addr_traddr
    echo 4420 >$target/ports/2/addr_trsvcid
fi
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
    port=1 transport=loop
    [ "$serial" != local-a ] || port=2 transport=tcp,traddr=127.0.0.1,trsvcid=4420
    ln -s "$subsystem" "$target/ports/$port/subsystems/"
    echo "transport=$transport,nqn=${subsystem##*/}" >/dev/nvme-fabrics
done
