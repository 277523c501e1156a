"""The worklist with many studies, over HTTP from a served node: `python -m benchmarks.worklist [--studies 100000] [--save]`,
on each kind of database.

Every 50th study is critical, every 20th urgent; one of eight sources sent it, and every 500th one came from a ninth. Times are of whole
requests (page, or the rows that a search as one types brings), and from the commit of a critical finding to its event in a browser.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from benchmarks.query_index import fill
from benchmarks.receivers import Node, await_true, fresh
from benchmarks.report import WORK, save, spread, table
from benchmarks.workitems import answers
from dicom_node.accounts import RIGHTS_OF_ROLE, make_token
from dicom_node.config import load
from dicom_node.node import prepare
from storage import accounts, runs, snapshot, worklist_upkeep
from storage.database import open_database
from storage.runs import RunSpec
from storage.visibility import Limits
from tests.postgresql import binaries, private_cluster

ALERT = {"urgency": "critical", "finding": "Pneumothorax", "reason": "Pneumothorax: Present (0.97)"}
FOUND = {"classifications": [], "measurements": [{"name": "Volume", "of": "lung", "value": 3.5, "unit": "L"}], "segments": []}
PAGES = {
    "first page": "/",
    "first page, rows only": "/worklist/rows",
    "sorted by patient": "/?sort=patient&order=asc",
    "critical": "/?show=critical",
    "CT of all time": "/?modality=CT",
    "typed: sm": "/worklist/rows?q=sm",
    "typed: smith": "/worklist/rows?q=smith",
    "typed: smi anna": "/worklist/rows?q=" + quote("smi anna"),
    "typed: A0005": "/worklist/rows?q=A0005",
    "typed: nothing like it": "/worklist/rows?q=zzqx",
}
LIMITED = {
    "limited to one source of eight": Limits(("CT_1",)),
    "limited to a source of one study in 500": Limits(("RARE",)),
    "limited to CT": Limits((), ("CT",)),
    "limited to a modality that is not there": Limits((), ("XA",)),
}


KINDS = ("SQLite", "PostgreSQL")


@dataclass(frozen=True)
class Measured:
    """Times by page (ms), sizes of pages (bytes), and seconds until a finding is told."""

    times: dict[str, list[float]]
    sizes: dict[str, int]
    told: list[float]


def furnish(path: Path, studies: int) -> None:
    """Studies, and urgency as findings would have given it."""
    fill(path, studies)
    database = open_database(f"sqlite:///{path}")
    try:
        worklist_upkeep.catch_up(database, now=time.time())
    finally:
        database.close()
    chance, now = random.Random(2), time.time()
    with closing(sqlite3.connect(path)) as connection:
        pks = [pk for (pk,) in connection.execute("SELECT study_pk FROM worklist")]
        level = {pk: 2 if pk % 50 == 0 else 1 if pk % 20 == 0 else 0 for pk in pks}
        rows = [(level[pk], level[pk], json.dumps([ALERT] * (level[pk] > 0)), now - chance.random() * 3e7, pk) for pk in pks]
        connection.execute("UPDATE instance SET calling_ae = CASE WHEN study_pk % 500 = 7 THEN 'RARE' ELSE 'CT_' || (study_pk % 8) END")
        connection.executemany("UPDATE worklist SET urgency = ?, rank = ?, alerts = ?, arrived_at = ? WHERE study_pk = ?", rows)
        connection.commit()
        connection.execute("ANALYZE")


def admitted(url: str) -> dict[str, str]:
    """A token for an account of each of `LIMITED`, and one for an account without limits, as ``""``."""
    database, rights = open_database(url), RIGHTS_OF_ROLE["administrator"]
    with closing(database), database.begin() as connection:
        found = {}
        for number, (name, limits) in enumerate({"": Limits(), **LIMITED}.items()):
            account = accounts.add(connection, f"bench{number}", "no password", "administrator", limits, actor="bench")
            found[name] = make_token(connection, account, "bench", rights, expires_at=None, actor="bench")
    return found


def timed(port: int, path: str, repeats: int, token: str) -> tuple[list[float], int]:
    """Milliseconds of each request on one connection, and the bytes of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    times, size = [], 0
    for _ in range(repeats + 1):
        began = time.perf_counter()
        connection.request("GET", path, headers={"Accept": "text/html", "Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        size = len(answer.read())
        times.append((time.perf_counter() - began) * 1000)
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status}")
    connection.close()
    return times[1:], size


def until_told(port: int, url: str, repeats: int, token: str) -> list[float]:
    """Seconds from the commit of a run with a critical finding to its event."""
    database = open_database(url)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/events", headers={"Accept": "text/event-stream", "Authorization": f"Bearer {token}"})
    stream, seconds = connection.getresponse(), []
    with closing(database), database.read() as reading:
        uids = [row[0] for row in reading.exec_driver_sql(f"SELECT study_uid FROM study ORDER BY pk LIMIT {repeats}")]
    for number, uid in enumerate(uids):
        with database.begin() as writing:
            pk = runs.create_run(writing, RunSpec(uid, 1, ["s"], [(uid, "d")], "r", "chest", "1", "d", run_key=f"bench {number}"))
            assert pk is not None
            runs.start_run(writing, pk, "cpu")
            runs.complete_run(writing, pk, device="cpu", timings={}, findings={**FOUND, "alerts": [ALERT]})
        began = time.perf_counter()
        while uid.encode() not in stream.readline():
            pass
        seconds.append(time.perf_counter() - began)
    stream.close()
    return seconds


@contextmanager
def filled(kind: str, studies: int, node: Node) -> Iterator[str]:
    """The URL of a database with so many studies, which the node is configured for."""
    config = load(node.config)
    prepare(config)
    index = next(path for path in config.node.data_dir.glob("*.sqlite"))
    furnish(index, studies)
    if kind == "SQLite":
        yield f"sqlite:///{index}"
        return
    with private_cluster(fsync="on", full_page_writes="on", shared_buffers="512MB", autovacuum="on") as url:
        database = open_database(url, create=True)
        with closing(database):
            snapshot.load(index, database)
            with database.begin() as connection:
                connection.exec_driver_sql("ANALYZE")
        text = node.config.read_text(encoding="utf-8")
        node.config.write_text(re.sub(r"(?m)^\[database\].*$", f'[database]\nurl = "{url}"', text), encoding="utf-8")
        yield url


def measure(kind: str, studies: int, repeats: int, folder: Path, tell: Callable[[str], None]) -> Measured:
    """Time every page of a node whose index is in a database of this kind."""
    node = Node()
    node.configure(fresh(folder / "worklist"))
    began = time.perf_counter()
    with filled(kind, studies, node) as url:
        tokens = admitted(url)
        tell(f"{kind}: filled in {time.perf_counter() - began:.0f} s")
        node.start(folder / "worklist")
        try:
            await_true(lambda: answers(node.http), "the node does not answer over HTTP")
            found = {name: timed(node.http, path, repeats, tokens[""]) for name, path in PAGES.items()}
            found |= {f"first page, {name}": timed(node.http, "/", repeats, tokens[name]) for name in LIMITED}
            found |= {f"typed: smith, {name}": timed(node.http, "/worklist/rows?q=smith", repeats, tokens[name]) for name in LIMITED}
            told = until_told(node.http, url, 10, tokens[""])
        finally:
            node.stop()
    return Measured({name: times for name, (times, _) in found.items()}, {name: size for name, (_, size) in found.items()}, told)


def main() -> None:
    """Measure, print the table and keep it in benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--databases", nargs="+", choices=KINDS, default=[kind for kind in KINDS if kind == "SQLite" or binaries()])
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    found = {
        kind: measure(kind, options.studies, options.repeats, WORK, lambda text: print(text, flush=True)) for kind in options.databases
    }
    first = next(iter(found.values()))
    rows = [
        [name, *(spread(each.times[name], "{:.1f}") for each in found.values()), f"{first.sizes[name] / 1000:.0f}"] for name in first.times
    ]
    rows.append(["critical finding > event", *(spread([1000 * told for told in each.told], "{:.0f}") for each in found.values()), ""])
    text = table([f"worklist of {options.studies:,} studies", *(f"{kind}: ms, median (range)" for kind in found), "kB"], rows)
    print(text)
    if options.save:
        kept = {kind: {"ms": each.times, "bytes": each.sizes, "told_s": each.told} for kind, each in found.items()}
        save("worklist", {"studies": options.studies, **kept}, text)


if __name__ == "__main__":
    main()
