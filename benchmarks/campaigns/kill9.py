"""kill -9 of the receiver and of each other role in turn, while associations stand mid-instance and others are sending.

Two associations have sent half an instance when the signal comes, always; more are sending whole ones. After each restart and recovery:
everything acknowledged is there and byte-identical, no row is without its bytes, and an index rebuilt from the bytes alone is the same.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.campaigns.check import Verdict, check, rebuilt_differs
from benchmarks.instances import CT_IMAGE_STORAGE, Identity, new_uid, template
from benchmarks.load import Load, LoadError, Plan, Wire, message, store_command
from benchmarks.receivers import Node, await_true, fresh
from benchmarks.report import WORK, save, table

# A word of the command line that tells each role; the supervisor is the node itself, and all its children go with it.
ROLES = ("receiver", "supervisor", "scheduler", "--io", "--device", "web")


@dataclass(frozen=True)
class Kill:
    """One kill and what it left."""

    role: str
    mid_instance: int
    acknowledged: int
    verdict: Verdict


def half_sent(node: Node, source: random.Random) -> tuple[Wire, Identity]:
    """Open an association and send half of a CT on it."""
    wire = Wire("127.0.0.1", node.port, called=node.called, calling="LOAD")
    identity = Identity("ct", new_uid(source), new_uid(source), new_uid(source), 1)
    whole = message(1, store_command(CT_IMAGE_STORAGE, identity.sop), template("ct").instance(identity), wire.pdu_length)
    wire.socket.sendall(whole[: len(whole) // 2])
    return wire, identity


def victim(node: Node, role: str) -> psutil.Process | None:
    """Return the process that plays `role`, by its command line; the supervisor is the node itself."""
    supervisor = node.process()
    if role == "supervisor":
        return supervisor
    for child in supervisor.children(recursive=True):
        try:
            if role in child.cmdline():
                return child
        except psutil.NoSuchProcess:
            continue
    return None


def one_kill(node: Node, role: str, source: random.Random) -> tuple[list[Identity], int]:
    """Load the node, kill one role mid-instance, restart where needed; return (acknowledged, associations mid-instance)."""
    halves = [half_sent(node, source) for _ in range(2)]
    loads = [
        Load("127.0.0.1", node.port, Plan(kind, studies=4, per_study=40, called=node.called, give_up=20), associations)
        for kind, associations in (("ct", 1), ("small", 2))
    ]
    for load in loads:
        load.go()
    time.sleep(source.uniform(0.02, 0.3))
    target = victim(node, role)
    if target is None:
        raise SystemExit(f"there is no process for the role {role!r}: {[child.cmdline() for child in node.process().children(True)]}")
    if role == "supervisor":
        node.kill()
    else:
        target.kill()
    acknowledged = [identity for load in loads for identity in load.result().acknowledged]
    for wire, _ in halves:
        wire.close()
    if role == "supervisor":
        node.launch()
    else:
        await_true(lambda: answers(node), f"the node answers after its {role} was killed", 60)
    return acknowledged, len(halves)


def answers(node: Node) -> bool:
    """Return whether a C-ECHO succeeds."""
    try:
        with Wire("127.0.0.1", node.port, called=node.called, contexts=[("1.2.840.10008.1.1", ["1.2.840.10008.1.2"])], timeout=5) as wire:
            return wire.echo() == 0
    except (OSError, LoadError):
        return False


def judge(node: Node, acknowledged: Sequence[Identity]) -> Verdict:
    """Stop the node, let it recover once more, compare; then rebuild the index from bytes alone and compare again."""
    node.stop()
    node.launch()
    node.stop()
    return check(node.index, node.archive_root(), acknowledged)


def campaign(folder: Path, kills: int, seed: int, roles: Sequence[str], every: int) -> list[Kill]:
    """Kill `kills` times, the roles in turn, checking everything each `every` kills."""
    source, done, acknowledged = random.Random(seed), [], []
    node = Node()
    node.start(fresh(folder))
    try:
        for number in range(kills):
            role = roles[number % len(roles)]
            told, halves = one_kill(node, role, source)
            acknowledged += told
            if (number + 1) % every and number + 1 != kills:
                continue
            verdict = judge(node, acknowledged)
            done.append(Kill(role, halves, len(told), verdict))
            print(f"kill {number + 1} ({role}): {verdict}", flush=True)
            if number + 1 != kills:
                node.launch()
        done[-1].verdict.reindex_differs = rebuilt_differs(node.index, node.archive_root())
        print(f"after archive reindex: {done[-1].verdict}", flush=True)
    finally:
        node.stop()
    return done


def main() -> None:
    """Run the campaign and say what was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--every", type=int, default=5, help="check everything after each so many kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--role", action="append", choices=ROLES)
    parser.add_argument("--folder", type=Path, default=WORK / "kill9")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    done = campaign(arguments.folder.resolve(), arguments.kills, arguments.seed, arguments.role or ROLES, arguments.every)
    last = done[-1].verdict
    lost = sum(len(kill.verdict.missing) + len(kill.verdict.altered) for kill in done)
    bare = sum(len(kill.verdict.without_bytes) for kill in done)
    row = [str(arguments.kills), str(last.acknowledged), str(lost), str(bare), str(len(last.reindex_differs))]
    text = table(["kill -9", "instances acknowledged", "missing or altered", "rows without bytes", "different after reindex"], [row])
    print(text)
    if arguments.save:
        save("kill9", {"kills": arguments.kills, "acknowledged": last.acknowledged, "good": all(kill.verdict.good for kill in done)}, text)
    if not all(kill.verdict.good for kill in done):
        sys.exit(1)


if __name__ == "__main__":
    main()
