"""Where servers and hosts stand: all on loopback, or each in a network namespace of its own (needs root).

    hub (10.213.7.1, the servers) ── bridge ──┬── h0 (10.213.7.10)
                                              └── h1 (10.213.7.11)

A link that goes down takes the packets of one host and says nothing: that is how a network really fails. The harness
itself stays outside and reaches the servers through Unix sockets.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.running import free_port

_CLONE_NEWNET = 0x40000000
_PREFIX = "pagepack-chaos-"


class Loopback:
    """Hosts are process groups only; nothing between them can be cut."""

    name = "process groups"
    can_cut = False
    address = "127.0.0.1"

    def __init__(self) -> None:
        self.hosts: list[str] = []

    def add(self, host: str) -> None:
        self.hosts.append(host)

    def remove(self, hosts: Iterable[str]) -> None:
        self.hosts = [host for host in self.hosts if host not in set(hosts)]

    @contextmanager
    def entered(self, host: str) -> Iterator[None]:
        """Processes that are started inside stand at this host."""
        yield

    def port(self) -> int:
        return free_port()

    def set_link(self, host: str, up: bool) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class Namespaces:
    """A namespace for each host; "hub" holds the servers. Not thread-safe: `entered` moves the calling thread."""

    name = "network namespaces"
    can_cut = True
    address = "10.213.7.1"

    def __init__(self) -> None:
        _remove_orphans()
        self.hosts: list[str] = []
        self._added = 0
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._next_port = 20_000
        self._make("hub")
        hub = self._namespace("hub")
        _ip("-n", hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", hub, "address", "add", f"{self.address}/24", "dev", "br0")
        _ip("-n", hub, "link", "set", "br0", "up")

    def add(self, host: str) -> None:
        namespace, hub = self._make(host), self._namespace("hub")
        self._added += 1
        _ip("-n", hub, "link", "add", f"to-{host}", "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("-n", hub, "link", "set", f"to-{host}", "master", "br0", "up")
        _ip("-n", namespace, "address", "add", f"10.213.7.{10 + self._added % 240}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")

    @contextmanager
    def entered(self, host: str) -> Iterator[None]:
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            self._enter(Path("/run/netns") / self._namespace(host))
            yield
        finally:
            self._set(before)
            os.close(before)

    def port(self) -> int:
        """The hub has no ports but ours."""
        self._next_port += 1
        return self._next_port

    def set_link(self, host: str, up: bool) -> None:
        """Of the hub's end: the host keeps its address and route, and hears nothing."""
        _ip("-n", self._namespace("hub"), "link", "set", f"to-{host}", "up" if up else "down")

    def remove(self, hosts: Iterable[str]) -> None:
        for host in list(hosts):
            subprocess.run(["ip", "netns", "del", self._namespace(host)], stderr=subprocess.DEVNULL)
            self.hosts.remove(host)

    def close(self) -> None:
        self.remove(self.hosts)

    def _make(self, host: str) -> str:
        namespace = self._namespace(host)
        _ip("netns", "add", namespace)
        self.hosts.append(host)
        _ip("-n", namespace, "link", "set", "lo", "up")
        return namespace

    def _namespace(self, host: str) -> str:
        return f"{_PREFIX}{os.getpid()}-{host}"

    def _enter(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            self._set(descriptor)
        finally:
            os.close(descriptor)

    def _set(self, descriptor: int) -> None:
        if self._libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def best_network() -> Loopback | Namespaces:
    """Namespaces where this process may make them."""
    try:
        return Namespaces()
    except (OSError, subprocess.CalledProcessError):
        return Loopback()


def _remove_orphans() -> None:
    """Namespaces of a harness that was killed."""
    for path in Path("/run/netns").glob(f"{_PREFIX}*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            subprocess.run(["ip", "netns", "del", path.name], stderr=subprocess.DEVNULL)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
