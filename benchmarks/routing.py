"""How long a routing decision takes, and the replay of a rule file on the past: `python -m benchmarks.routing`.

One study of 2,000 instances, stored by the archive itself, is read from a SQLite index and judged by twenty rules, and again with a model
that asks for attributes that only headers have; then `rule replay` judges 10,000 studies, which are rows, by the same rules.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from functools import cache
from pathlib import Path

from sqlalchemy import insert

from benchmarks.instances import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, template
from benchmarks.load import Plan
from benchmarks.report import save, spread, table
from dicom_node.config import Config, parse
from dicom_node.node import open_node, prepare
from dicom_node.releases.resolve import resolve
from dicom_node.routing.look import look
from dicom_node.routing.plan import make_plan, peers_of
from dicom_node.routing.replay import replay
from storage.archive import Archive, Source
from storage.database import Database
from storage.schema import instance, patient, series, study

ROOT_UID = "1.2.826.0.1.3680043.10.1024.9"
LIMIT_DECISION, LIMIT_REPLAY = 50.0, 30.0  # ms, s
RULES = "".join(
    f"[[rule]]\nname = 'r{number}'\nmatch = {{ Modality = '{modality}', SeriesDescription = '*{number}*' }}\nfrom = ['SCAN*']\n"
    f"when = [{{ hours = ['06:00-22:00'] }}, {{ days = ['sat', 'sun'] }}]\n"
    f"forward = [{{ to = ['pacs'], series = {{ BodyPartExamined = 'HEAD' }} }}]\n"
    for number, modality in enumerate(["MR", "CT", "CR", "US", "PT", "NM"] * 3)
)
TEXT = """
[node]
data_dir = "data"
[archive]
min_free = 0
[[peer]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 104
[[rule]]
name = "stroke"
match = { StudyDescription = "*STROKE*" }
priority = 100
[[rule]]
name = "phantoms"
match = { PatientID = "PHANTOM*" }
ignore = "a phantom"
"""
MODEL = "[[rule]]\nname = 'brain'\nmatch = { Modality = 'CT' }\nrun = ['brain_extraction']\n"


def fill(database: Database, studies: int, *, first: int, series_each: int, images: int) -> None:
    """Rows of complete studies, as receiving makes them."""
    now = time.time()
    with database.begin() as connection:
        rows, parts, instances = [], [], []
        for number in range(first, first + studies):
            uid = f"{ROOT_UID}.{number}"
            rows.append({"pk": number, "study_uid": uid, "patient_pk": number, "study_description": f"EXAM {number % 400}",
                         "study_date": "20260101", "state": "COMPLETE", "revision": images, "completed_revision": images,
                         "completed_at": now - 60, "complete_reason": "", "first_received_at": now, "last_received_at": now})  # fmt: skip
            for part in range(series_each):
                pk = number * 100 + part
                parts.append({"pk": pk, "series_uid": f"{uid}.{part}", "study_pk": number, "modality": ("MR", "CT")[part % 2],
                              "series_number": str(part), "series_description": f"T1 SERIES {part}", "body_part": "HEAD"})  # fmt: skip
                for image in range(images // series_each):
                    instances.append({"sop_uid": f"{uid}.{part}.{image}", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.4", "study_pk": number,
                                      "series_pk": pk, "transfer_syntax_uid": "1.2.840.10008.1.2.1", "instance_number": str(image),
                                      "image_type": "ORIGINAL\\PRIMARY", "rows": 512, "columns": 512, "digest": "0" * 64, "length": 1,
                                      "received_at": now, "calling_ae": "SCANNER", "called_ae": "NODE", "origin": "received"})  # fmt: skip
        connection.execute(insert(patient), [{"pk": number, "patient_id": f"P{number}"} for number in range(first, first + studies)])
        connection.execute(insert(study), rows)
        connection.execute(insert(series), parts)
        connection.execute(insert(instance), instances)


def store(archive: Archive, images: int) -> str:
    """Receive a study of small images; its UID."""
    session = archive.session(Source(None, "SCANNER", "NODE", "127.0.0.1"))
    uid = ""
    for identity in Plan("small", studies=1, per_study=images, seed=1).identities():
        writer = session.begin(sop_class_uid=CT_IMAGE_STORAGE, sop_instance_uid=identity.sop, transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN)
        writer.write([memoryview(template(identity.kind).instance(identity))])
        uid = writer.commit().study_uid
    session.close()
    return uid


def decisions(config: Config, database: Database, archive: Archive, uid: str, repeats: int) -> list[float]:
    """Milliseconds from the rows to the plan, as the route handler takes them: models are resolved each time."""
    times = []
    for _ in range(repeats):
        gc.collect()
        started = time.perf_counter()
        models = cache(lambda name: resolve(config, database, name))
        facts = look(database, archive, [uid], config.rule, models)[uid]
        plan = make_plan(facts, config.rule, models, peers_of(config))
        times.append((time.perf_counter() - started) * 1000)
        assert plan.forwards
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "node.toml"
        config, with_model = parse(TEXT + RULES, where=where), parse(TEXT + RULES + MODEL, where=where)
        prepare(config)
        with open_node(config, "benchmark") as node:
            uid = store(node.archive, 2000)
            plain = decisions(config, node.database, node.archive, uid, options.repeats)
            model = decisions(with_model, node.database, node.archive, uid, options.repeats)
            for start in range(1000, options.studies + 1000, 1000):
                fill(node.database, min(1000, options.studies + 1000 - start), first=start, series_each=4, images=20)
            started = time.perf_counter()
            report = replay(config, node.database, node.archive, time.time() - 86400)
            took = time.perf_counter() - started
    assert report.studies == options.studies
    rows = [
        ["a study of 2,000 instances judged by 20 rules, ms", spread(plain, "{:.1f}"), f"{LIMIT_DECISION:.0f}"],
        ["... with a model that asks for headers, ms", spread(model, "{:.1f}"), f"{LIMIT_DECISION:.0f}"],
        [f"replay of {options.studies:,} studies of 20 instances, s", f"{took:.1f}", f"{LIMIT_REPLAY:.0f}"],
    ]
    text = table(["", "median (range)", "limit"], rows)
    if options.save:
        save("routing", {"decision_ms": plain, "decision_with_model_ms": model, "studies": options.studies, "replay_s": took}, text)
    print(text)


if __name__ == "__main__":
    main()
