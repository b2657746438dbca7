"""Packets to nobody at an even rate: storm.py RATE SECONDS. Says how many it sent."""

import socket
import sys
import time

rate, seconds = int(sys.argv[1]), int(sys.argv[2])
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
start = time.monotonic()
sent = 0
while (elapsed := time.monotonic() - start) < seconds:
    due = int(elapsed * rate)
    while sent < due:
        sender.sendto(b"", ("127.0.0.1", 9))
        sent += 1
    time.sleep(0.01)
print(f"{sent} lines in {elapsed:.1f} s")
