#!/bin/bash
# foreign.sh OFFSET BYTES: shows that part of the corpus as a local disk, tells the executor to make a file system on it, alone and
# beside the blank local disk, and takes the disk away again.
set -eu
corpus=$(basename "$(dirname "$(grep -lx corpus /sys/block/vd*/serial)")")
loop=$(losetup --find --show --offset "$1" --sizelimit "$2" "/dev/$corpus")
target=/sys/kernel/config/nvmet
name=nqn.2026-11.test.nap-vm:foreign
subsystem=$target/subsystems/$name
remove() {
    for controller in /sys/class/nvme/nvme*; do
        [ "$(cat "$controller/subsysnqn" 2>/dev/null)" != "$name" ] || echo 1 >"$controller/delete_controller"
    done
    rm -f "$target/ports/1/subsystems/$name"
    [ ! -e "$subsystem/namespaces/1" ] || rmdir "$subsystem/namespaces/1"
    [ ! -e "$subsystem" ] || rmdir "$subsystem"
    losetup --detach "$loop"
}
trap remove EXIT
mkdir "$subsystem"
echo 1 >"$subsystem/attr_allow_any_host"
printf 'Microsoft NVMe Direct Disk' >"$subsystem/attr_model"
printf local-foreign >"$subsystem/attr_serial"
mkdir "$subsystem/namespaces/1"
printf %s "$loop" >"$subsystem/namespaces/1/device_path"
echo 1 >"$subsystem/namespaces/1/enable"
ln -s "$subsystem" "$target/ports/1/subsystems/"
echo "transport=loop,nqn=$name" >/dev/nvme-fabrics
udevadm settle
echo "answer: $(nap-make-volume local-foreign 2>&1)"
echo "answer: $(nap-make-volume local-blank local-foreign 2>&1)"
