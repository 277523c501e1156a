"""What the node adds to a model's own time: from 'study complete' to 'accepted by the PACS', less the forward passes.

The 384-slice T1 goes in by C-STORE; Orthanc is the PACS. The first run is the cold start (model loading), the later ones are warm.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sqlite3
import tarfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from statistics import median

import pydicom
from pydicom.uid import generate_uid

from benchmarks.instances import EXPLICIT_VR_LITTLE_ENDIAN
from benchmarks.load import Wire
from benchmarks.receivers import Node, Orthanc, await_true, fresh
from benchmarks.report import DATA, WORK, save, spread, table

T1 = DATA / "mr-t1" / "studyforrest-t1w-384.tar.xz"
REFERENCE_ML = 1791.7


@dataclass(frozen=True)
class Run:
    """One study's way through the node, in seconds."""

    warm: bool
    complete_to_accepted: float
    forward: float
    load: float
    overhead: float
    volume_ml: float
    timings: dict[str, float]


def t1_slices() -> list[pydicom.Dataset]:
    """Return the real T1 series, read once."""
    with lzma.open(T1) as packed, tarfile.open(fileobj=packed, mode="r|") as archive:
        found = []
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is None:
                continue
            raw = file.read()
            if raw[128:132] == b"DICM":
                found.append(pydicom.dcmread(BytesIO(raw)))
    return found


def send(node: Node, slices: Sequence[pydicom.Dataset]) -> str:
    """Send the series as a new study; return its UID."""
    study, series = generate_uid(), generate_uid()
    sop_class = slices[0].SOPClassUID
    syntax = slices[0].file_meta.TransferSyntaxUID
    with Wire("127.0.0.1", node.port, called=node.called, calling="LOAD", contexts=[(sop_class, [syntax])]) as wire:
        for one in slices:
            one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID = study, series, generate_uid()
            one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
            out = BytesIO()
            one.save_as(out, enforce_file_format=True)
            raw = out.getvalue()
            length = int.from_bytes(raw[140:144], "little")
            status, comment = wire.store(raw[144 + length :], sop_class=sop_class, sop_instance=one.SOPInstanceUID)
            if status:
                raise SystemExit(f"C-STORE answered {status:04X} {comment}")
    return str(study)


def settings(text: str, orthanc: Orthanc) -> str:
    """Return the default configuration with Orthanc as its PACS and a quiet period of two seconds."""
    text = text.replace('ae_title = "PACS"', 'ae_title = "ORTHANC"').replace("port = 104\n", f"port = {orthanc.port}\n")
    return text.replace('quiet_period = "60s"', 'quiet_period = "2s"')


def story(node: Node, study: str) -> dict[str, object] | None:
    """Return a study's times and timings once its results are delivered."""
    query = (
        "SELECT c.at, d.finished_at, r.timings, r.findings, d.state, r.state, r.reason "
        "FROM completion c JOIN run r ON r.study_uid = c.study_uid "
        "JOIN delivery d ON d.run_pk = r.pk WHERE c.study_uid = ? AND d.finished_at IS NOT NULL"
    )
    with closing(sqlite3.connect(f"file:{node.index}?mode=ro", uri=True, timeout=30)) as connection:
        row = connection.execute(query, (study,)).fetchone()
    if row is None:
        return None
    if row[4] != "DELIVERED":
        raise SystemExit(f"delivery ended as {row[4]}, run as {row[5]}: {row[6]}")
    return {"complete": row[0], "accepted": row[1], "timings": json.loads(row[2]), "findings": json.loads(row[3])}


def volume_of(findings: object) -> float:
    """Return the first number of millilitres among the findings as shown."""
    if isinstance(findings, dict):
        if findings.get("unit") in ("mL", "ml") and "value" in findings:
            return float(findings["value"])
        findings = list(findings.values())
    if isinstance(findings, list):
        for one in findings:
            if isinstance(one, dict | list) and (found := volume_of(one)):
                return found
    return 0.0


def in_pacs(orthanc: Orthanc, study: str) -> int:
    """Return how many series of a study Orthanc holds."""
    for one in json.loads(orthanc.get("/studies?expand")):
        if one["MainDicomTags"].get("StudyInstanceUID") == study:
            return len(one["Series"])
    return 0


def one_run(node: Node, orthanc: Orthanc, slices: Sequence[pydicom.Dataset], warm: bool) -> Run:
    """Send the series and wait until the PACS has the results."""
    study = send(node, slices)
    found: list[dict[str, object]] = []

    def delivered() -> bool:
        told = story(node, study)
        if told is not None:
            found.append(told)
        return told is not None

    await_true(delivered, "the results are delivered", 300, 0.1)
    if in_pacs(orthanc, study) != 2:
        raise SystemExit("the PACS does not hold SEG and SR")
    told = found[0]
    timings = {str(key): float(value) for key, value in dict(told["timings"]).items()}  # type: ignore[call-overload]
    total = float(str(told["accepted"])) - float(str(told["complete"]))
    forward, load = timings.get("forward", 0.0), timings.get("load", 0.0)
    return Run(warm, total, forward, load, total - forward, volume_of(told["findings"]), timings)


def benchmark(folder: Path, runs: int) -> list[Run]:
    """Measure a cold run and `runs` warm ones."""
    slices = t1_slices()
    orthanc = Orthanc()
    orthanc.start(fresh(folder / "orthanc"))
    node = Node(lambda text: settings(text, orthanc))
    try:
        node.configure(fresh(folder / "overhead"))
        node.command("model", "fetch", "brain_extraction")
        node.launch()
        time.sleep(1.0)
        done = []
        for number in range(runs + 1):
            done.append(one_run(node, orthanc, slices, warm=number > 0))
            print(asdict(done[-1]), flush=True)
        return done
    finally:
        node.stop()
        orthanc.stop()


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=WORK)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    if not T1.exists():
        parser.error(f"{T1} is not there: set DICOM_NODE_DATA")
    done = benchmark(arguments.folder.resolve(), arguments.runs)
    cold, warm = done[0], done[1:]
    rows = [
        ["overhead, warm", spread([run.overhead for run in warm], "{:.2f}") + " s"],
        ["forward passes", spread([run.forward for run in warm], "{:.2f}") + " s"],
        ["complete to accepted by the PACS, warm", spread([run.complete_to_accepted for run in warm], "{:.2f}") + " s"],
        ["complete to accepted by the PACS, cold start", f"{cold.complete_to_accepted:.2f} s (overhead {cold.overhead:.2f} s)"],
        ["brain volume (reference 1791.7 mL)", f"{median(run.volume_ml for run in done):.1f} mL"],
    ]
    text = table(["384-slice T1, brain_extraction on the CPU", "median (range)"], rows)
    print(text)
    if arguments.save:
        save("overhead", {"syntax": EXPLICIT_VR_LITTLE_ENDIAN, "runs": [asdict(run) for run in done]}, text)


if __name__ == "__main__":
    main()
