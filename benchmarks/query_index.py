"""Queries of a large index, without a network: `python -m benchmarks.query_index [--studies 1000000]`.

Fills a SQLite index (two series and five instances a study) with bulk inserts and times plan and stream to the last row, with
Modalities in Study and the counts asked for. The index is kept in build/benchmarks and used again by the next run.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import psutil

from benchmarks.report import WORK, save, spread, table
from storage.attributes import Level
from storage.database import Database, open_database
from storage.names import name_keys
from storage.query import Key, Query, plan, stream

ROOT_UID = "1.2.826.0.1.3680043.10.1024"
KNOWN = "SMITH SMIT SMIDT SMILEY SMITHSON SMITS SCHMITT SCHMITZ MITCHELL MITTAL DMITRIEV KAMITANI LIMITO AMITAI MITRE".split()  # noqa: SIM905
GIVEN = (
    "ANNA BEN CARLA DAVID EMMA FELIX GRACE HUGO IDA JONAS KATE LEO MARIA NOAH OLGA PAUL QUINN ROSA SEAN TESS URI VERA WILL XENIA YAN ZOE"
)
SYLLABLES = (
    "BA BER CHA CO DA DEL EN FA FER GA GRO HA HOL IS JA KA KEN LA LIN MA MON NA NO OR PA PER QUI RA RO SA SEN TA TO UL VA VER WA WIN YA ZA"
)
SETTINGS = ("journal_mode = OFF", "synchronous = OFF", "cache_size = -400000", "temp_store = MEMORY")

STUDIES = """
INSERT INTO study (pk, study_uid, patient_pk, study_date, study_time, accession_number, study_id, study_description, referring_physician,
                   referring_key, state, revision, first_received_at, last_received_at)
WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < :studies)
SELECT n, :root || '.1.' || (n * 1000003 % 900000007), 1 + n * 7919 % :patients, strftime('%Y%m%d', '2018-01-01', (n / :a_day) || ' days'),
       printf('%02d%02d%02d', n % 24, n % 60, n * 7 % 60), 'A' || printf('%08d', n), n % 100000, 'EXAM ' || (n % 400), 'DOC^' || (n % 900),
       'doc^' || (n % 900), 'COMPLETE', 5, 0, 0
FROM number
"""
SERIES = """
INSERT INTO series (pk, series_uid, study_pk, modality, series_number, series_description, series_date, series_time, body_part)
SELECT study.pk * 2 + part.n, study_uid || '.' || part.n, study.pk,
       CASE WHEN part.n = 1 THEN 'SR' ELSE substr('CTMRCRDXUSMGPTNM', 1 + 2 * (study.pk % 8), 2) END,
       part.n, 'SERIES ' || part.n, study_date, study_time, 'CHEST'
FROM study CROSS JOIN (SELECT 0 AS n UNION ALL SELECT 1) AS part
"""
INSTANCES = """
INSERT INTO instance (sop_uid, sop_class_uid, study_pk, series_pk, transfer_syntax_uid, instance_number, rows, columns, digest, length,
                      received_at, origin)
SELECT series_uid || '.' || part.n, CASE WHEN modality = 'SR' THEN '1.2.840.10008.5.1.4.1.1.88.34' ELSE '1.2.840.10008.5.1.4.1.1.2' END,
       study_pk, series.pk, '1.2.840.10008.1.2.1', part.n, 512, 512, hex(randomblob(32)), 526910, 0, 'received'
FROM series CROSS JOIN (SELECT 1 AS n UNION ALL SELECT 2 UNION ALL SELECT 3) AS part WHERE part.n < 3 OR modality <> 'SR'
"""


# Time, accession number, Modalities in Study, description, referring physician, birth date, sex, Study ID, number of series and instances
RETURNED = (0x00080030, 0x00080050, 0x00080061, 0x00081030, 0x00080090, 0x00100030, 0x00100040, 0x00200010, 0x00201206, 0x00201208)


def names(patients: int) -> Iterable[tuple[int, str, str]]:
    """Key, name and folded name of each patient: twenty thousand family names, evenly frequent."""
    chance = random.Random(1)
    syllables, given = SYLLABLES.split(), GIVEN.split()
    family = list(dict.fromkeys("".join(chance.choices(syllables, k=chance.randint(2, 4))) for _ in range(25_000)))[:20_000] + KNOWN
    for pk in range(1, patients + 1):
        name = f"{chance.choice(family)}^{chance.choice(given)}"
        yield pk, name, name_keys("name", name)["name_key"]


def fill(path: Path, studies: int) -> None:
    """Make an index at `path` that holds `studies` studies of 0.6 times as many patients."""
    open_database(f"sqlite:///{path}", create=True).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for setting in SETTINGS:
            connection.execute(f"PRAGMA {setting}").fetchall()
        indexes = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall()
        patients = max(1, studies * 6 // 10)
        connection.execute("BEGIN")
        for name, _ in indexes:
            connection.execute(f'DROP INDEX "{name}"')
        row = "INSERT INTO patient (pk, patient_id, name, name_key, birth_date, sex) VALUES (?1, 'P' || ?1, ?2, ?3, '19700101', 'O')"
        connection.executemany(row, names(patients))
        values = {"studies": studies, "patients": patients, "a_day": _a_day(studies), "root": ROOT_UID}
        connection.execute(STUDIES, values)
        connection.execute(SERIES)
        connection.execute(INSTANCES)
        for _, sql in indexes:
            connection.execute(sql)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()


def _a_day(studies: int) -> int:
    return max(1, studies // 2000)


def searches(studies: int) -> dict[str, str]:
    """What is looked for, by the words that name it."""
    days = max(1, 500 // _a_day(studies))
    first = date(2018, 1, 1) + timedelta(days=200)
    dates = f"{first:%Y%m%d}-{first + timedelta(days=days - 1):%Y%m%d}"
    some = studies // 3
    return {
        "StudyInstanceUID": f"{ROOT_UID}.1.{some * 1000003 % 900000007}",
        "PatientID": f"P{max(1, some // 2)}",
        "StudyDate": dates,
        "PatientName SMI*": "SMI*",
        "PatientName *MIT*": "*MIT*",
        "all": "",
    }


def keys(what: str, wanted: str) -> tuple[Key, ...]:
    """A query for `wanted`, with what a worklist asks back."""
    tags = {"StudyInstanceUID": 0x0020000D, "PatientID": 0x00100020, "StudyDate": 0x00080020, "PatientName": 0x00100010}
    looked_for = tags.get(what.split(" ")[0])
    return tuple(Key(tag, "UN", wanted if tag == looked_for else "") for tag in (*tags.values(), *RETURNED))


def measure(database: Database, what: str, wanted: str, repeats: int) -> tuple[list[float], int]:
    """Return the milliseconds from question to last row, and how many rows there are."""
    times, rows = [], 0
    for _ in range(repeats):
        started = time.perf_counter()
        rows = sum(1 for _ in stream(database, plan(Query(Level.STUDY, keys(what, wanted)))))
        times.append((time.perf_counter() - started) * 1000)
    return times, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    path = WORK / f"query-index-{options.studies}.sqlite"
    if not path.exists():
        started = time.perf_counter()
        unfinished = path.with_suffix(".unfinished")
        unfinished.unlink(missing_ok=True)
        fill(unfinished, options.studies)
        unfinished.rename(path)
        print(f"filled in {time.perf_counter() - started:.0f} s, {path.stat().st_size / 1e6:.0f} MB", flush=True)
    database, process = open_database(f"sqlite:///{path}"), psutil.Process()
    rows, figures = [], {}
    for what, wanted in searches(options.studies).items():
        before = process.memory_info().rss
        times, found = measure(database, what, wanted, options.repeats if wanted else 3)
        grown = max(0, process.memory_info().rss - before) / 2**20
        figures[what] = {"ms": times, "rows": found, "grown_mib": grown}
        rows.append([what, str(found), spread(times, "{:.1f}"), f"{grown:.0f}"])
        print(*rows[-1], sep="  ", flush=True)
    database.close()
    text = table([f"{options.studies:,} studies", "matches", "ms, median (range)", "memory grown, MiB"], rows)
    if options.save:
        save("query_index", {"studies": options.studies, "searches": figures}, text)
    print(text)


if __name__ == "__main__":
    main()
