"""Takes what a leak would take, tells systemd when it has it, and holds it until it is ended: hold.py files|memory|tcp."""

import os
import resource
import signal
import socket
import sys

held = []


def files():
    """containerd's: gRPC clients that say nothing after their greeting (RFC 9113, 3.4)."""
    for _ in range(200):
        client = socket.socket(socket.AF_UNIX)
        client.connect("/run/containerd/containerd.sock")
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        held.append(client)


def fill(sender, message):
    """Sends until nothing more is taken."""
    sender.setblocking(False)
    try:
        while True:
            sender.send(message)
    except BlockingIOError:
        pass


def memory():
    """The kernel's: messages between sockets that nobody reads, in pieces that it takes from its slabs."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (65536, 65536))
    while share_of_the_kernel() < 0.42:
        for _ in range(50):
            sender, receiver = socket.socketpair()
            fill(sender, bytes(3600))
            held.extend((sender, receiver))


def share_of_the_kernel():
    with open("/proc/meminfo") as lines:
        kib = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
    return (kib["SUnreclaim"] + kib["Percpu"]) / kib["MemTotal"]


def tcp():
    """TCP's buffers: what is sent and nobody reads."""
    server = socket.create_server(("127.0.0.1", 0))
    held.append(server)
    for _ in range(4):
        sender = socket.create_connection(server.getsockname())
        held.extend((sender, server.accept()[0]))
        fill(sender, bytes(65536))


{"files": files, "memory": memory, "tcp": tcp}[sys.argv[1]]()
notifier = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notifier.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))
signal.pause()
