"""Keeps a machine busy until it is ended: noise.py memory|network|forged|kernel|processes."""

import mmap
import os
import socket
import subprocess
import sys
import threading
import time

LEFT_KIB = 150 * 1024


def available_kib():
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def memory():
    """Takes and touches nearly all that is left, and gives it back, again and again."""
    while True:
        held = []
        while available_kib() > LEFT_KIB:
            piece = mmap.mmap(-1, 16 << 20)
            for page in range(0, len(piece), mmap.PAGESIZE):
                piece[page] = 1
            held.append(piece)
        time.sleep(5)


def network():
    """Connections that come and go, and one that never stops sending."""
    server = socket.create_server(("127.0.0.1", 0), backlog=512)

    def drain(client):
        while client.recv(1 << 16):
            pass

    def accept():
        while True:
            threading.Thread(target=drain, args=(server.accept()[0],), daemon=True).start()

    def send():
        sender = socket.create_connection(server.getsockname())
        while True:
            sender.sendall(bytes(1 << 16))

    for task in (accept, send):
        threading.Thread(target=task, daemon=True).start()
    while True:
        socket.create_connection(server.getsockname()).close()
        time.sleep(0.005)


def forged():
    """What the kernel says when it breaks, said by a program."""
    lines = (
        "EXT4-fs error (device sda1): ext4_find_entry:1455: inode #2: comm x: reading directory lblock 0",
        "EXT4-fs (sda1): Remounting filesystem read-only",
        "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [x:1]",
        "NVRM: Xid (PCI:0000:01:00): 79, pid=1, GPU has fallen off the bus.",
        "nvme nvme0: controller is down; will reset: CSTS=0xffffffff",
        "Oops: 0002 [#1] PREEMPT SMP",
    )
    with open("/dev/kmsg", "w") as log:
        while True:
            for line in lines:
                log.write("<2>" + line + "\n")
                log.flush()
                time.sleep(0.002)


def kernel():
    """Packets that the packet filter writes a line of the kernel's for."""
    table = "table ip noise { chain output { type filter hook output priority 0; udp dport 9 log prefix \"noise \"; }; }"
    subprocess.run(["nft", table], check=True)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    while True:
        for _ in range(20):
            sender.sendto(b"", ("127.0.0.1", 9))
        time.sleep(0.01)


def processes():
    """Processes, and units of systemd, that come and go."""
    while True:
        subprocess.run(["systemd-run", "--quiet", "--collect", "--wait", "true"], check=False)
        for _ in range(20):
            os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


{"memory": memory, "network": network, "forged": forged, "kernel": kernel, "processes": processes}[sys.argv[1]]()
