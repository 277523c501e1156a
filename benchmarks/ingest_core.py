"""Ingest without the network: `Archive.session` driven directly from 1 and 4 threads, to see what the storage alone costs."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.instances import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, Identity, template
from benchmarks.load import Plan
from storage.archive import Archive, Outcome, Source
from storage.database import open_database


def store(archive: Archive, identities: list[Identity], data: list[bytes], pdu: int) -> None:
    """Store instances as an association does, in fragments of at most `pdu` bytes."""
    session = archive.session(Source(None, "BENCH", "NODE", "127.0.0.1"))
    for identity, whole in zip(identities, data):
        writer = session.begin(
            sop_class_uid=CT_IMAGE_STORAGE, sop_instance_uid=identity.sop, transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN
        )
        view = memoryview(whole)
        writer.write([view[start : start + pdu] for start in range(0, len(view), pdu)])
        receipt = writer.commit()
        if receipt.outcome is not Outcome.STORED:
            raise SystemExit(f"{identity.sop}: {receipt}")
    session.close()


def measure(kind: str, threads: int, per_study: int, studies: int, folder: Path) -> tuple[float, float]:
    """Return instances per second and CPU milliseconds per instance."""
    database = open_database(f"sqlite:///{folder / 'index.sqlite'}", create=True)
    Archive.create(folder / "archive", database).close()
    archive = Archive.open(folder / "archive", database, process="bench")
    batches = []
    for number in range(threads):
        identities = list(Plan(kind, studies=studies, per_study=per_study, seed=100 + number).identities())
        batches.append((identities, [template(each.kind).instance(each) for each in identities]))
    workers = [threading.Thread(target=store, args=(archive, identities, data, 128 << 10)) for identities, data in batches]
    cpu, started = time.process_time(), time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    archive.close()
    database.close()
    count = sum(len(identities) for identities, _ in batches)
    return count / seconds, 1000 * cpu / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on the disk to measure")
    arguments = parser.parse_args()
    for repetition in range(arguments.repeat):
        for kind, studies in (("ct", 3), ("small", 8)):
            for threads in (1, 4):
                folder = Path(tempfile.mkdtemp(prefix=".ingest-core-", dir=arguments.folder))
                try:
                    rate, cpu = measure(kind, threads, 100, studies, folder)
                finally:
                    shutil.rmtree(folder)
                print(f"{repetition + 1}: {kind:5} {threads} threads {rate:6.0f}/s {cpu:.3f} ms CPU", flush=True)


if __name__ == "__main__":
    main()
