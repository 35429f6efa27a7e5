"""What a node's machine is made of, and what of it is in use."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import pynvml
from headrace_contracts.events import Gpu

_RAPL: Final = Path("/sys/class/powercap")
_RAPL_PACKAGES: Final = "intel-rapl:[0-9]*"
_UNNAMED: Final = "(seen by Ollama only)"


@dataclass(frozen=True, slots=True)
class Hardware:
    """As the fields of `NodeAnnounced` of the same names."""

    cpus: int | None = None
    memory_bytes: int | None = None
    memory_free_bytes: int | None = None
    gpus: tuple[Gpu, ...] = ()
    watts: float | None = None


@dataclass(frozen=True, slots=True)
class EnergyReading:
    """Counters of the processors' energy in microjoules, and when they were read, in seconds."""

    at: float
    microjoules: Mapping[str, int]


def watts_between(before: EnergyReading | None, now: EnergyReading) -> float | None:
    """The power between two readings; None without counters that have gone on (they start again from 0)."""
    if (
        before is None
        or now.at <= before.at
        or not now.microjoules
        or before.microjoules.keys() != now.microjoules.keys()
    ):
        return None
    used = sum(now.microjoules[name] - before.microjoules[name] for name in now.microjoules)
    return used / 1e6 / (now.at - before.at) if used >= 0 else None


def with_gpus_of_ollama(hardware: Hardware, vram_bytes: int) -> Hardware:
    """What is known of graphics processors where no driver tells: how much memory of them Ollama says that it uses."""
    if hardware.gpus or vram_bytes <= 0:
        return hardware
    seen = Gpu(name=_UNNAMED, used_bytes=vram_bytes)
    return Hardware(hardware.cpus, hardware.memory_bytes, hardware.memory_free_bytes, (seen,), hardware.watts)


def total_watts(processors: float | None, gpus: Sequence[Gpu]) -> float | None:
    """What is known of the power; None if nothing is."""
    known = [watts for watts in (processors, *(gpu.watts for gpu in gpus)) if watts is not None]
    return round(sum(known), 1) if known else None


class HardwareReader:
    """Reads the machine's state; blocks for some milliseconds."""

    def __init__(self, rapl: Path = _RAPL) -> None:
        self._rapl = rapl
        self._energy: EnergyReading | None = None
        self._nvml = _open_nvml()

    def read(self) -> Hardware:
        """The state now. What the system does not tell is None."""
        memory = psutil.virtual_memory()
        gpus = self._gpus()
        energy = EnergyReading(time.monotonic(), _microjoules(self._rapl))
        watts = total_watts(watts_between(self._energy, energy), gpus)
        self._energy = energy
        return Hardware(psutil.cpu_count(), memory.total, memory.available, gpus, watts)

    def close(self) -> None:
        """Release the driver."""
        if self._nvml:
            pynvml.nvmlShutdown()

    def _gpus(self) -> tuple[Gpu, ...]:
        if not self._nvml:
            return ()
        try:
            count = pynvml.nvmlDeviceGetCount()
            return tuple(_gpu(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count))
        except pynvml.NVMLError:
            return ()  # lost, or reset meanwhile


def _open_nvml() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False  # no driver here
    return True


def _gpu(handle: Any) -> Gpu:
    name = pynvml.nvmlDeviceGetName(handle)
    memory = _asked(pynvml.nvmlDeviceGetMemoryInfo, handle)
    use = _asked(pynvml.nvmlDeviceGetUtilizationRates, handle)
    milliwatts = _asked(pynvml.nvmlDeviceGetPowerUsage, handle)
    return Gpu(
        name=name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name),
        memory_bytes=None if memory is None else int(memory.total),
        used_bytes=None if memory is None else int(memory.used),
        busy_percent=None if use is None else int(use.gpu),
        watts=None if milliwatts is None else milliwatts / 1000,
    )


def _asked(question: Any, handle: Any) -> Any:
    try:
        return question(handle)
    except pynvml.NVMLError:
        return None  # not every model tells everything


def _microjoules(folder: Path) -> Mapping[str, int]:
    """Counters by package; none where they may not be read, which only root may on most machines."""
    found: dict[str, int] = {}
    for package in sorted(folder.glob(_RAPL_PACKAGES)):
        if package.name.count(":") == 1:
            try:
                found[package.name] = int((package / "energy_uj").read_text(encoding="ascii"))
            except (OSError, ValueError):
                continue
    return found
