"""Runs inside a student's container: tries to reach addresses, all at once, and prints what came of it as JSON.

``python3 -c "$(cat probe.py)" '[{"name": ..., "kind": ..., "address": ..., "port": ..., "seconds": ...}]'``

Answers are ``open``, ``refused`` (somebody said no, so the packet got there), ``silent``, and ``no way`` (this
container's own kernel knows no way there).
"""

import ctypes
import json
import os
import socket
import struct
import sys
import threading
from pathlib import Path

ECHO_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
QUESTION = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + b"\x07student\x04test\x00" + struct.pack(">2H", 1, 1)
CLONE_NEWUSER = 0x10000000
IP_FREEBIND = 15


def look(target):
    """Return how a target answers within its time."""
    try:
        return KINDS[target["kind"]](target)
    except ConnectionError:
        return "refused"
    except TimeoutError:
        return "silent"
    except OSError as error:
        # A drop on the own way in is told to nobody; these are said by the kernel here.
        return "no way" if not isinstance(error, socket.gaierror) else f"no name: {error}"


def connect(target):
    socket.create_connection((target["address"], target["port"]), target["seconds"]).close()
    return "open"


def ask_name(target):
    """Ask a name server for a name, over UDP."""
    with datagrams(target, 0) as asking:
        asking.send(QUESTION)
        answer = asking.recv(512)
        return "open" if answer[:2] == QUESTION[:2] and answer[2] & 0x80 else "something else"


def ping(target):
    with datagrams(target, socket.IPPROTO_ICMPV6 if ":" in target["address"] else socket.IPPROTO_ICMP) as asking:
        asking.send(struct.pack(">BBHHH", ECHO_REQUEST[asking.family], 0, 0, 0, 1))
        asking.recv(512)
        return "open"


def datagrams(target, protocol):
    """Return a socket that hears only this target, errors told by ICMP included."""
    family = socket.AF_INET6 if ":" in target["address"] else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_DGRAM, protocol)
    opened.settimeout(target["seconds"])
    opened.connect((target["address"], target["port"]))
    return opened


def resolve(target):
    """Ask as programs do, by the container's own resolver."""
    socket.getaddrinfo(target["address"], None, socket.AF_INET)
    return "open"


KINDS = {"tcp": connect, "dns": ask_name, "ping": ping, "name": resolve}


def powers():
    """Return what else a container might try, and what came of it."""
    found = {}
    for name, family, kind, protocol in (
        ("raw packets", socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)),
        ("raw IPv4", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
        ("raw IPv6", socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW),
    ):
        try:
            socket.socket(family, kind, protocol).close()
            found[name] = "open"
        except OSError as error:
            found[name] = os.strerror(error.errno)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as lying:
        lying.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)  # anybody may; it lets one bind, but not send
        lying.bind(("192.0.2.1", 0))
        try:
            lying.sendto(b"", ("198.51.100.1", 9))
            found["another's address"] = "open"
        except OSError as error:
            found["another's address"] = os.strerror(error.errno)
    libc = ctypes.CDLL(None, use_errno=True)
    refused = libc.unshare(CLONE_NEWUSER)
    found["own user namespace"] = os.strerror(ctypes.get_errno()) if refused else "open"
    interfaces = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
    found["IPv6 addresses"] = [words[0] for words in interfaces if words[5] != "lo"]
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    found["capabilities"] = {name: int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")}
    found["new privileges"] = status["NoNewPrivs"].strip() == "0"
    return found


def main():
    targets = json.loads(sys.argv[1])
    found = {}
    threads = [
        threading.Thread(target=lambda target=target: found.update({target["name"]: look(target)}))
        for target in targets
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"reached": found, "powers": powers()}))


if __name__ == "__main__":
    main()
