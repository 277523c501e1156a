"""What is known of a network's memory, and what follows for the next volume."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from models.ladder import Rung
from models.memory import Estimate, Profile, Room, Use, choose, estimate, fit
from models.meters import CpuMeter, CudaMeter, meter_of

MIB, GIB = 1 << 20, 1 << 30
CONFIGURED, ONE, STITCHED, ON_CPU = (rung.value for rung in Rung)
CUDA = [("cuda", CONFIGURED), ("cuda", ONE), ("cuda", STITCHED), ("cpu", ON_CPU)]
CPU = [("cpu", CONFIGURED), ("cpu", ONE)]


def took(voxels: int, taken: int, *, rung: str = CONFIGURED, device: str = "cuda", fitted: bool = True) -> Use:
    return Use(device, rung, voxels, taken, fitted)


def profile(*uses: Use) -> Profile:
    made = Profile()
    made.learn(uses)
    return made


def rooms(cuda: int, *, ever: int = 80 * GIB, cpu: int = 64 * GIB) -> dict[str, Room]:
    return {"cuda": Room(cuda, ever), "cpu": Room(cpu, 64 * GIB)}


def test_one_size_makes_a_proportion_and_several_a_line_above_all_of_them() -> None:
    one = fit([took(1000, 5000), took(1000, 6000)])
    assert one is not None
    assert (one.at(500), one.at(2000), one.proportional) == (3000, 12000, True)
    several = fit([took(1000, 11_000), took(2000, 12_000), took(3000, 15_000), took(9000, 1, fitted=False)])
    assert several is not None
    assert (several.slope, several.largest, several.sizes) == (2.0, 3000, 3)
    assert [several.at(voxels) for voxels in (1000, 2000, 3000)] == [11_000, 13_000, 15_000]
    falling = fit([took(1000, 5000), took(3000, 4000)])
    assert falling is not None
    assert (falling.slope, falling.at(5000)) == (0.0, 5000)
    assert fit([]) is None


def test_an_estimate_holds_to_twice_the_largest_volume() -> None:
    uses = [took(1000, 1000), took(2000, 2000)]
    assert estimate(uses, 4000) == Estimate(4000, True, 2)
    assert estimate(uses, 4001) is None
    guess = estimate([took(1000, 1000)], 2000)
    assert guess is not None
    assert not guess.sure


def test_what_did_not_fit_is_not_tried_again_with_about_as_much() -> None:
    failed = [took(1000, 4 * GIB, fitted=False)]
    again = estimate(failed, 900)
    assert again is not None
    assert (again.needed, again.more, again.sure) == (5 * GIB, True, True)
    assert "did not fit into 4.0 GiB before" in str(again)
    assert estimate(failed, 700) is None
    assert estimate([*failed, took(1200, 6 * GIB)], 1000) == Estimate(5 * GIB, False, 1), "what fitted since tells more"


def test_the_first_rung_that_fits_into_what_is_free_is_chosen_and_says_why() -> None:
    known = profile(took(1000, 20 * GIB), took(2000, 40 * GIB), took(1000, 4 * GIB, rung=ONE), took(2000, 8 * GIB, rung=ONE))
    easy = choose(CUDA, 1000, known, rooms(30 * GIB).__getitem__)
    assert (easy.rung, easy.why) == (CONFIGURED, "about 20.0 GiB by measurements of 2 sizes, 30.0 GiB free")
    tight = choose(CUDA, 1000, known, rooms(21 * GIB).__getitem__)
    assert tight.rung == ONE, "an estimate needs a reserve"
    assert tight.why.startswith("as configured: about 20.0 GiB by measurements of 2 sizes, 21.0 GiB free; about 4.0 GiB")
    assert choose(CUDA, 1000, known, rooms(2 * GIB).__getitem__).rung == STITCHED, "of which nothing is known"
    unknown = choose(CUDA, 1000, Profile(), rooms(GIB).__getitem__)
    assert (unknown.rung, unknown.estimate) == (CONFIGURED, None)
    assert choose(CUDA, 9000, known, rooms(30 * GIB).__getitem__).rung == CONFIGURED, "beyond what is believed it is tried"


def test_where_nothing_fits_now_it_waits_and_where_nothing_ever_will_it_ends() -> None:
    known = profile(*(took(n * 1000, n * 20 * GIB, rung=rung, device=device) for n in (1, 2) for device, rung in CUDA))
    later = choose(CUDA, 1000, known, rooms(2 * GIB, cpu=GIB).__getitem__)
    assert (later.rung, later.later) == (None, True)
    never = choose(CUDA, 1900, known, {"cuda": Room(2 * GIB, 24 * GIB), "cpu": Room(GIB, 16 * GIB)}.__getitem__)
    assert (never.rung, never.later) == (None, False)
    assert "at most 24.0 GiB here" in never.why
    assert "at most 16.0 GiB here" in never.why


def test_a_guess_from_one_size_refuses_nothing() -> None:
    known = profile(took(1000, 4 * GIB, device="cpu"), took(1000, 3 * GIB, device="cpu", rung=ONE))
    tried = choose(CPU, 2000, known, lambda kind: Room(5 * GIB, 5 * GIB))
    assert (tried.rung, tried.estimate) == (ONE, Estimate(6 * GIB, False, 1))
    assert "by one size of volume only, so it is tried" in tried.why
    known.learn([took(2000, 5 * GIB, device="cpu", rung=rung, fitted=False) for rung in (CONFIGURED, ONE)])
    assert choose(CPU, 2000, known, lambda kind: Room(5 * GIB, 5 * GIB)).rung is None
    assert choose(CPU, 2000, known, lambda kind: Room(7 * GIB, 7 * GIB)).rung == CONFIGURED, "with more memory it is tried again"


def test_what_could_not_be_measured_tells_nothing() -> None:
    assert profile(took(1000, 0)).lines() == {}


# --- meters


def test_a_cuda_device_is_read_by_its_driver_and_allocator() -> None:
    said = {"reset": 0, "allocated": 3 * GIB, "peak": 3 * GIB}
    device = torch.device("cuda:1")

    def reset(which: torch.device) -> None:
        assert which == device
        said["reset"] += 1

    cuda = SimpleNamespace(
        mem_get_info=lambda which: (10 * GIB, 80 * GIB),
        memory_reserved=lambda which: 5 * GIB,
        memory_allocated=lambda which: said["allocated"],
        max_memory_allocated=lambda which: said["peak"],
        reset_peak_memory_stats=reset,
    )
    meter = CudaMeter(device, cuda)
    assert meter.room() == Room(12 * GIB, 80 * GIB), "what the allocator keeps is free to the network"
    meter.begin()
    said["peak"] = 9 * GIB
    assert (meter.peak(), said["reset"]) == (6 * GIB, 1)
    assert isinstance(meter_of(torch.device("cpu")), CpuMeter)


def test_a_control_group_limits_what_the_system_has(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text("VmSize:\t 2048 kB\nVmRSS:\t 1024 kB\nVmHWM:\t 1024 kB\nThreads:\t1\n")
    (tmp_path / "meminfo").write_text(f"MemTotal: {8 << 20} kB\nMemAvailable: {6 << 20} kB\nHugePages_Total: 0\n")
    meter = CpuMeter(tmp_path, tmp_path)
    assert meter.room() == Room(6 * GIB, 8 * GIB - MIB)
    (tmp_path / "memory.max").write_text(f"{4 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{3 * GIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {GIB // 2}\n")
    assert meter.room() == Room(3 * GIB // 2, 4 * GIB)
    (tmp_path / "memory.max").write_text("max\n")
    assert meter.room().free == 6 * GIB


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_the_process_itself_is_measured_and_its_limit_known() -> None:
    meter = CpuMeter()
    meter.begin()
    taken = bytearray(200 * MIB)
    taken[::4096] = b"1" * len(taken[::4096])
    del taken
    peak = meter.peak()
    assert peak is not None
    assert 190 * MIB < peak < 260 * MIB
    meter.begin()
    assert (meter.peak() or 0) < 50 * MIB, "the peak of what was before is not that of what comes after"
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (64 << 30, 64 << 30));"
        "from models.meters import CpuMeter; room = CpuMeter().room(); print(room.ever < 64 << 30, room.free <= room.ever)"
    )
    said = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, timeout=120, check=True).stdout
    assert said.split() == ["True", "True"]
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
