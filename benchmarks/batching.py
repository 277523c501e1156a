"""Chest films that wait at the same time, one by one and together: `python -m benchmarks.batching [--films N] [--batch N] [--save]`.

Two nodes share one warm child with cxr_lungs; one takes a film at a time, the other up to `--batch`. Both get films of the same pixels, and
take turns. The time runs from the first claim until the last run is complete with its SEG and SR in the archive; films that
the child needed to become warm do not count. What both found must be the same.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import structlog
import torch
from monai.networks.nets.densenet import DenseNet121
from monai.networks.nets.unet import UNet

from benchmarks.receivers import cpu_seconds, fresh
from benchmarks.report import WORK, save, spread, table
from dicom_node.work.executors import ProcessExecutor
from tests.films import RULE, chest, film
from tests.node import StepNode, running, send, settings, uid_of

ROUNDING = 1e-3  # of an area, relative: a pixel on an edge may fall to either side


@dataclass(frozen=True)
class Round:
    """Seconds a film: the whole run, what processors were busy with it, and the network alone; ``passes``: how many there were."""

    batch: int
    whole: float
    cpu: float
    forward: float
    passes: float


def waiting(node: StepNode, values: Sequence[Any], folder: Path) -> list[str]:
    """Send films, each a study of its own, and route them; the studies, whose runs now wait."""
    films = [film(each, PixelSpacing=[0.2, 0.2]) for each in values]
    for image in films:
        if send(node, [image], folder) != [0]:
            raise SystemExit("a film was not stored")
    node.complete()
    while node.route.step():
        pass
    return [uid_of([image]) for image in films]


def carried_out(node: StepNode, child: psutil.Process, studies: Sequence[str], batch: int) -> tuple[Round, list[list[float]]]:
    """Carry out what waits; the times, and what was measured in each film."""
    started, busy = time.perf_counter(), time.process_time() + cpu_seconds(child)
    while node.infer.step():
        pass
    whole, busy = time.perf_counter() - started, time.process_time() + cpu_seconds(child) - busy
    runs = [node.story(uid).runs[0].run for uid in studies]
    if any(run.state != "COMPLETED" for run in runs):
        raise SystemExit(f"a run ended as {sorted({run.state for run in runs})}")
    forward = sum((run.timings or {})["forward"] for run in runs)
    passes = sum(1 / _together(node, run.job_pk or 0) for run in runs)
    areas = [[float(each["value"]) for each in (run.findings or {})["measurements"]] for run in runs]
    return Round(batch, whole / len(studies), busy / len(studies), forward / len(studies), passes), areas


def _together(node: StepNode, job: int) -> int:
    detail = node.infer._queue.events(job)[-1].detail or ""
    return int(detail.rsplit("one of ", 1)[1].split()[0]) if "one of " in detail else 1


def benchmark(folder: Path, films: int, batch: int, side: int, repetitions: int) -> list[Round]:
    """Measure both nodes in turns, after a first turn that does not count."""
    done: list[Round] = []
    executor = ProcessExecutor("cpu")
    with ExitStack() as stack:
        stack.callback(executor.close)
        executor.warm_up()
        nodes = {}
        for size in (1, batch):
            config = settings(fresh(folder / f"batch-{size}"), more=f"[executor]\nbatch = {size}\n" + RULE % "cxr_lungs")
            nodes[size] = stack.enter_context(running(config, executor=executor))
        for turn in range(repetitions + 1):
            values = [chest(1000 * turn + number, side, side) for number in range(films if turn else batch)]
            found = {}
            for size in (1, batch) if turn % 2 else (batch, 1):
                studies = waiting(nodes[size], values, fresh(folder / "films"))
                measured, found[size] = carried_out(nodes[size], psutil.Process(executor.pid), studies, size)
                if turn:
                    done.append(measured)
                    print(asdict(measured), flush=True)
            if not np.allclose(found[1], found[batch], rtol=ROUNDING):
                raise SystemExit("the results differ")
    return done


def passes(batch: int, repetitions: int) -> list[tuple[str, float, float]]:
    """Networks alone: median ms an image, one by one and ``batch`` at once, taking turns in this process after one that does not count."""
    unet = UNet(2, 1, 2, (16, 32, 64, 128, 160), (2, 2, 2, 2), num_res_units=2)
    made = []
    for name, network, side in (("U-Net of cxr_lungs at 256", unet, 256), ("DenseNet-121 at 224", DenseNet121(2, 1, 14), 224)):
        network.eval()
        images = torch.rand(batch, 1, side, side)
        times: dict[int, list[float]] = {1: [], batch: []}
        with torch.inference_mode():
            for _ in range(repetitions + 1):
                for size, found in times.items():
                    started = time.perf_counter()
                    for part in torch.split(images, size):
                        network(part)
                    found.append(1000 * (time.perf_counter() - started) / batch)
        made.append((name, median(times[1][1:]), median(times[batch][1:])))
    return made


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--films", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=1024, help="rows and columns of a film")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=WORK / "batching")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    done = benchmark(arguments.folder.resolve(), arguments.films, arguments.batch, arguments.side, arguments.repetitions)
    alone, together = ([each for each in done if each.batch == size] for size in (1, arguments.batch))

    def row(name: str, of: str) -> list[str]:
        one, other = ([1000 * getattr(each, of) for each in rounds] for rounds in (alone, together))
        return [name, spread(one), spread(other), f"{median(a / b for a, b in zip(one, other, strict=True)):.2f}"]

    what = f"ms a film of {arguments.side} x {arguments.side}, cxr_lungs on the CPU"
    head = [what, "one by one", f"up to {arguments.batch} together", "ratio"]
    rows = [
        row("claim to SEG and SR in the archive", "whole"),
        row("CPU time of it", "cpu"),
        row("its share of the forward passes", "forward"),
    ]
    networks = passes(arguments.batch, arguments.repetitions)
    rows += [[f"{name}, the forward pass alone", f"{one:.1f}", f"{other:.1f}", f"{one / other:.2f}"] for name, one, other in networks]
    text = table(head, rows)
    print(text)
    if arguments.save:
        result = {"films": arguments.films, "side": arguments.side, "rounds": [asdict(each) for each in done], "networks": networks}
        save("batching", result, text)


if __name__ == "__main__":
    main()
