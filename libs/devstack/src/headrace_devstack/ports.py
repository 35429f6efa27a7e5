"""The ports of the parts, whether they are free, and which processes use those that are not."""

import random
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil

from headrace_devstack.descriptions import OTHER_PORTS
from headrace_devstack.errors import FreeThePort
from headrace_devstack.services import SERVICES

LOOPBACK = "127.0.0.1"
DEFAULT_PORT_BASE = 19_080
BLOCK = 40
MOST_BROKERS = 3
_OPS = {service.name: service.ports.ops for service in SERVICES}
_APIS = {service.name: service.ports.api for service in SERVICES if service.ports.api is not None}


@dataclass(frozen=True, slots=True)
class PortPlan:
    """The block of ports of one stack, all derived from its first port."""

    base: int
    brokers: int = 1

    @property
    def registry(self) -> int:
        return self.base + OTHER_PORTS["registry"]

    @property
    def simulator(self) -> int:
        return self.base + OTHER_PORTS["simulator"]

    @property
    def postgres(self) -> int:
        return self.base + OTHER_PORTS["postgres"]

    @property
    def registry_management(self) -> int:
        return self.base + OTHER_PORTS["registry (management)"]

    @property
    def nodes(self) -> range:
        """Node ids of the Kafka brokers."""
        return range(1, self.brokers + 1)

    @property
    def bootstrap_servers(self) -> str:
        """Addresses of all brokers, as Kafka's clients take them."""
        return ",".join(f"{LOOPBACK}:{self.broker(node)}" for node in self.nodes)

    def broker(self, node: int) -> int:
        """Port on which a broker serves clients."""
        return self.base + OTHER_PORTS[_broker(node)]

    def controller(self, node: int) -> int:
        """Port on which a broker serves the other controllers."""
        return self.base + OTHER_PORTS[f"{_broker(node)} (controller)"]

    def api(self, service: str) -> int:
        """Port of a service's HTTP API; KeyError for a service without one."""
        return self.base + _APIS[service]

    def ops(self, service: str) -> int:
        """Port of a service's /healthz, /readyz and /metrics."""
        return self.base + _OPS[service]

    def all(self) -> dict[int, str]:
        """All ports used from the block, with the names of their parts."""
        unused = {_broker(node) for node in range(self.brokers + 1, MOST_BROKERS + 1)}
        used = {
            **{
                self.base + distance: part
                for part, distance in OTHER_PORTS.items()
                if part.removesuffix(" (controller)") not in unused
            },
            **{self.api(service): service for service in _APIS},
            **{self.ops(service): f"{service} (ops)" for service in _OPS},
        }
        return dict(sorted(used.items()))


def _broker(node: int) -> str:
    """The name of a broker in `OTHER_PORTS`."""
    return "kafka" if node == 1 else f"kafka-{node}"


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def owner_of(port: int) -> str:
    """Name and pid of the process that listens on a port, if this user may see them."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return "a process this user may not see"
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            if connection.pid is None:
                return "a process of another user"
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.Error:
                return f"pid {connection.pid}"
    return "a process that has just ended or is not visible"


def choose_base(free: Callable[[int], bool] = is_free, tries: int = 200) -> int:
    """Choose a free block of ports, below the range that the system uses for outgoing connections.

    Raises:
        FreeThePort: no free block was found.
    """
    for base in random.sample(range(20_000, 32_000, BLOCK), k=tries):
        if all(free(port) for port in PortPlan(base, MOST_BROKERS).all()):
            return base
    raise FreeThePort(
        f"No free block of {BLOCK} ports between 20000 and 32000 after {tries} tries.",
        "end processes that listen there, or choose a block with --port-base.",
    )


def require_free(
    wanted: Iterable[tuple[int, str]],
    free: Callable[[int], bool] = is_free,
    who: Callable[[int], str] = owner_of,
) -> None:
    """Check that all the given (port, part) pairs can be bound.

    Raises:
        FreeThePort: names each port in use, the part that needs it, and the process that has it.
    """
    taken = [f"port {port}, needed by {part}, is in use by {who(port)}" for port, part in wanted if not free(port)]
    if taken:
        raise FreeThePort(
            f"{LOOPBACK}: " + "; ".join(taken) + ".",
            "end that process, or choose another block of ports: `headrace up --port-base 20000` "
            "(HEADRACE_PORT_BASE=20000 make up), or --port-base 0 for any free one.",
        )
