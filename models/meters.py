"""What memory a device has for a network, and how much one took at its peak: read from the system (CPU) or the CUDA driver."""

from __future__ import annotations

import contextlib
import ctypes
import resource
from pathlib import Path
from typing import Any, Protocol

import torch

from models.memory import Room

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")
_RESET_PEAK = "5"  # proc_pid_clear_refs(5): the peak of the resident set begins anew


class Meter(Protocol):
    """Reads the memory of one device, in bytes."""

    def room(self) -> Room:
        """What is free for a network, and what would be were nothing else there."""

    def begin(self) -> None:
        """Measure from here."""

    def peak(self) -> int | None:
        """What was taken at most since :meth:`begin`, beside what was there; None where it cannot be told."""


class CpuMeter:
    """The process's own memory: its resident set, what the system and its control group have left, and the limit of its address space."""

    def __init__(self, proc: Path = _PROC, cgroup: Path = _CGROUP) -> None:
        self._proc = proc
        self._cgroup = cgroup
        self._before = 0
        self._resets = False

    def room(self) -> Room:
        own, system = _table(self._proc / "self/status"), _table(self._proc / "meminfo")
        free, ever = system.get("MemAvailable", 1 << 62), system.get("MemTotal", 1 << 62) - own.get("VmRSS", 0)
        group = self._group()
        if group is not None:
            free, ever = min(free, group.free), min(ever, group.ever)
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            left = limit - own.get("VmSize", 0)
            free, ever = min(free, left), min(ever, left)
        return Room(max(0, free), max(0, ever))

    def _group(self) -> Room | None:
        """What the process's control group (version 2) allows; its file cache gives way."""
        try:
            most = int((self._cgroup / "memory.max").read_text())
            taken = int((self._cgroup / "memory.current").read_text())
            statistics = dict(line.split() for line in (self._cgroup / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # none, or "max"
            return None
        return Room(most - taken + int(statistics.get("inactive_file", 0)), most)

    def begin(self) -> None:
        _give_back()
        self._resets = False
        with contextlib.suppress(OSError):
            (self._proc / "self/clear_refs").write_text(_RESET_PEAK)
            self._resets = True
        self._before = _table(self._proc / "self/status").get("VmRSS", 0)

    def peak(self) -> int | None:
        most = _table(self._proc / "self/status").get("VmHWM", 0)
        return max(0, most - self._before) if self._resets and most else None


class CudaMeter:
    """The memory of a CUDA device, as torch's allocator and the driver tell it."""

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self._device = device
        self._cuda = cuda
        self._before = 0

    def room(self) -> Room:
        free, ever = self._cuda.mem_get_info(self._device)
        kept = self._cuda.memory_reserved(self._device) - self._cuda.memory_allocated(self._device)
        return Room(free + kept, ever)

    def begin(self) -> None:
        self._cuda.reset_peak_memory_stats(self._device)
        self._before = self._cuda.memory_allocated(self._device)

    def peak(self) -> int | None:
        return max(0, int(self._cuda.max_memory_allocated(self._device)) - self._before)


def meter_of(device: torch.device) -> Meter:
    """The meter of a device."""
    return CudaMeter(device) if device.type == "cuda" else CpuMeter()


def _give_back() -> None:
    """Let the C library give back what it keeps of freed memory, or the next run would seem to take less (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _table(file: Path) -> dict[str, int]:
    """The sizes of a file of /proc, in bytes; nothing where there is none."""
    found = {}
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    for line in lines:
        words = line.split()
        if len(words) == 3 and words[2] == "kB":
            found[words[0].rstrip(":")] = int(words[1]) << 10
    return found
