"""The log's in-memory twin: deterministic, works with virtual time, and passes the same tests as Kafka."""

from headrace_streams.memory.ailments import HANGS, Ailment
from headrace_streams.memory.cluster import MemoryCluster
from headrace_streams.memory.log import MemoryLog
from headrace_streams.memory.network import Network, NetworkRequest, Operation, PerfectNetwork

__all__ = ["HANGS", "Ailment", "MemoryCluster", "MemoryLog", "Network", "NetworkRequest", "Operation", "PerfectNetwork"]
