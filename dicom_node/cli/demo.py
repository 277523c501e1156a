"""The demonstration: two real nodes as processes of their own, a real series, real associations."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dicom_node.cli import output
from dicom_node.config import Config, Peer, load
from dicom_node.errors import CommandFailed

if TYPE_CHECKING:
    from storage.archive import StoredInstance
    from storage.timeline import Timeline

BUNDLE = "brain_extraction"
SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"

PACS = """\
[node]
ae_title = "PACS"
data_dir = "data"
[dimse]
host = "127.0.0.1"
port = 0
unknown_peers = "store"
[web]
enabled = false
[archive]
min_free = "100MB"
"""
NODE = """\
[node]
ae_title = "DICOM_NODE"
data_dir = "data"
[dimse]
host = "127.0.0.1"
port = 0
unknown_peers = "store"
[web]
port = 0
[archive]
min_free = "100MB"
[study]
quiet_period = "2s"
[[peer]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {port}
[[rule]]
name = "brain"
match = {{ Modality = "MR" }}
run = ["{bundle}"]
deliver = ["pacs"]
"""

T = TypeVar("T")


@dataclass
class RunningNode:
    """A ``dicom-node serve`` of our own."""

    config: Config
    file: Path
    process: subprocess.Popen[str]
    ready: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.ready.partition(" port ")[2].partition(";")[0].split()[0])


@dataclass
class Steps:
    """What happened, and how long each took."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        output.note(f"{name} ...")
        detail: list[str] = []
        started = time.monotonic()
        yield detail
        self.rows.append((name, f"{time.monotonic() - started:.1f} s", "; ".join(detail)))


@contextlib.contextmanager
def serve(folder: Path, text: str, *, deadline: float = 60.0) -> Iterator[RunningNode]:
    """Start a node and wait for its ready line; end it afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    file, log = folder / "node.toml", folder / "node.log"
    file.write_text(text, encoding="utf-8")
    with log.open("w") as stream:
        command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(file)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True, start_new_session=True)
    try:
        ready = _first_line(process, deadline)
        if not ready:
            raise CommandFailed(f"a node did not start; its log is {log}:\n{_tail(log)}")
        yield RunningNode(load(file), file, process, ready, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _first_line(process: subprocess.Popen[str], deadline: float) -> str:
    import select

    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], deadline)
    return process.stdout.readline().strip() if ready else ""


def _tail(path: Path, lines: int = 12) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def wait_for(what: str, look: Callable[[], T | None], node: RunningNode, *, deadline: float = 900.0) -> T:
    """Look until there is something to see.

    Raises
    ------
    CommandFailed
        Not within the deadline, or the node ended.
    """
    until = time.monotonic() + deadline
    while time.monotonic() < until:
        found = look()
        if found is not None:
            return found
        if node.process.poll() is not None:
            raise CommandFailed(f"the node ended while waiting for {what}; its log is {node.log}:\n{_tail(node.log)}")
        time.sleep(0.1)
    raise CommandFailed(f"no {what} within {deadline:.0f} s; the node's log is {node.log}")


def run_demo(folder: Path, *, source: Path | None = None, keep: bool = False) -> int:
    """Run the demonstration; the exit code."""
    from dicom_node import log

    log.configure("warning", role="demo")
    folder = folder.absolute()
    _clear(folder)
    steps = Steps()
    files, mask = _input(folder, source, steps)
    with contextlib.ExitStack() as stack:
        with steps.step("start two nodes") as detail:
            pacs = stack.enter_context(serve(folder / "pacs", PACS))
            node = stack.enter_context(serve(folder / "node", NODE.format(port=pacs.port, bundle=BUNDLE)))
            detail.append(f"node on port {node.port}, PACS on port {pacs.port}")
        story = _main_job(node, files, steps)
        found = _collect(node, pacs, story, folder / "results", steps)
        _report(story, found, mask, files, steps)
        if keep:
            output.line(f"Both nodes run until Ctrl-C. Send to {node.config.node.ae_title} at 127.0.0.1:{node.port}.")
            with contextlib.suppress(KeyboardInterrupt):
                node.process.wait()
    return 0


def _clear(folder: Path) -> None:
    """Remove an earlier demonstration; anything else in the folder is left alone."""
    for name in ("input", "node", "pacs", "results"):
        if (folder / name).exists():
            shutil.rmtree(folder / name)
    folder.mkdir(parents=True, exist_ok=True)


def _input(folder: Path, source: Path | None, steps: Steps) -> tuple[list[Path], Path | None]:
    from models.bundle import load_bundle
    from models.demo_input import fetch_template, write_demo_series
    from models.weights import fetch_weights

    with steps.step("fetch the model's weights") as detail:
        bundle = load_bundle(BUNDLE)
        fetch_weights(bundle, progress=output.note)
        detail.append(f"{bundle.name} {bundle.version}, verified")
    if source is not None:
        return sorted(path for path in source.rglob("*") if path.is_file()), None
    with steps.step("make the MR series") as detail:
        files = write_demo_series(folder / "input", progress=output.note)
        detail.append(f"MNI152 T1 head, {len(files)} images")
    return files, fetch_template()[1]


def _main_job(node: RunningNode, files: list[Path], steps: Steps) -> Timeline:
    from dicom_node.sending import send_files, store_items
    from storage.database import open_database
    from storage.timeline import timeline

    with steps.step("send it by C-STORE") as detail:
        items, _ = store_items(files)
        target = Peer(name="node", ae_title=node.config.node.ae_title, host="127.0.0.1", port=node.port)
        sender = Config.model_validate({"node": {"ae_title": "SCANNER"}})
        answers = send_files(sender, target, items)
        refused = [answer for _, answer in answers if not answer.ok]
        if refused:
            raise CommandFailed(f"{len(refused)} instances were refused: {refused[0].status:04X} {refused[0].comment}")
        detail.append(f"{len(answers)} instances, each answered Success")
    study_uid = _study_uid(files[0])
    database = open_database(node.config.database_url)
    try:

        def complete() -> Timeline | None:
            story = timeline(database, study_uid)
            return story if story.study.state == "COMPLETE" else None

        def ended() -> Timeline | None:
            story = timeline(database, study_uid)
            if any(each.job.kind == "route" and each.job.state in ("COMPLETED", "FAILED") for each in story.jobs) and not story.runs:
                raise CommandFailed("no model applies:\n" + _why(story))
            return story if any(run.run.state not in ("SCHEDULED", "IN_PROGRESS") for run in story.runs) else None

        def delivered() -> Timeline | None:
            story = timeline(database, study_uid)
            return story if all(each.delivery.state != "SCHEDULED" for run in story.runs for each in run.deliveries) else None

        with steps.step("wait until the study is complete") as detail:
            story = wait_for("completion", complete, node)
            detail.append(story.study.complete_reason or "")
        with steps.step("run the model") as detail:
            story = wait_for("result", ended, node)
            run = story.runs[0].run
            if run.state != "COMPLETED":
                raise CommandFailed(f"the run ended as {run.state}: {run.reason}")
            timings = ", ".join(f"{name} {seconds:.1f}" for name, seconds in (run.timings or {}).items())
            detail.append(f"on {run.device}; seconds: {timings}")
        with steps.step("deliver SEG and SR to the PACS") as detail:
            story = wait_for("delivery", delivered, node)
            made = story.runs[0].deliveries
            if {each.delivery.state for each in made} != {"DELIVERED"}:
                raise CommandFailed(f"the deliveries ended as {[f'{each.delivery.form} {each.delivery.state}' for each in made]}")
            detail.append(
                ", ".join(
                    f"{delivery.delivery.form} {each.state} {each.status:04X}"
                    for delivery in made
                    for each in delivery.instances
                    if each.status is not None
                )
            )
    finally:
        database.close()
    return story


def _why(story: Timeline) -> str:
    failed = [f"  the {each.job.kind} job failed: {each.job.error}" for each in story.jobs if each.job.state == "FAILED"]
    return "\n".join(failed) or "\n".join(
        f"  {each.series.series_description}: {choice.reason}" for each in story.series for choice in each.selections
    )


def _study_uid(file: Path) -> str:
    from pydicom import dcmread

    return str(dcmread(file, stop_before_pixels=True).StudyInstanceUID)


def _collect(node: RunningNode, pacs: RunningNode, story: Timeline, results: Path, steps: Steps) -> dict[str, Path]:
    """The SEG and the SR as the PACS has them, written as files."""
    from dicom_node.node import open_node

    with steps.step("read them back from the PACS") as detail, open_node(pacs.config, "demo") as reader:
        results.mkdir(parents=True, exist_ok=True)
        found: dict[str, Path] = {}
        stored: StoredInstance
        for stored in reader.archive.instances(story.study.study_uid):
            kind = {SEG: "SEG", SR: "SR"}.get(stored.sop_class_uid)
            if kind is not None:
                found[kind] = results / f"{kind}.dcm"
                found[kind].write_bytes(stored.read())
        if set(found) != {"SEG", "SR"}:
            raise CommandFailed(f"the PACS holds {sorted(found)} of this study, not SEG and SR")
        detail.append("one SEG and one SR, in the original study")
    return found


def _report(story: Timeline, found: dict[str, Path], mask: Path | None, files: list[Path], steps: Steps) -> None:
    run = story.runs[0].run
    output.table(("step", "time", "what happened"), steps.rows, title="The main job")
    facts: list[tuple[str, Any]] = [("study", story.study.study_uid)]
    facts += [
        (f"{each['of']} {each['name'].lower()}", f"{each['value']:.1f} {each['unit']}") for each in (run.findings or {})["measurements"]
    ]
    if mask is not None:
        facts.append(("Dice against the reference mask", f"{dice(found['SEG'], files, mask):.4f}"))
    facts += [(kind, str(path)) for kind, path in found.items()]
    output.table(("result", ""), facts, title="Result")


def dice(seg: Path, files: list[Path], mask: Path) -> float:
    """Overlap of the SEG's first segment with a reference mask of the demo head."""
    import numpy as np
    from highdicom.seg import segread
    from pydicom import dcmread

    from models.demo_input import read_axial

    uids = [str(dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in files]
    pixels = segread(seg).get_pixels_by_source_instance(uids, segment_numbers=[1], assert_missing_frames_are_empty=True)
    found = np.asarray(pixels)[..., 0] > 0
    wanted = read_axial(mask)[0] > 0
    total = int(found.sum()) + int(wanted.sum())
    return 2.0 * int((found & wanted).sum()) / total if total else 1.0
