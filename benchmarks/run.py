"""`make bench`: every figure of the README, measured here, the peers in the same run, and put between the README's markers."""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.report import RESULTS, ROOT, WORK, into_readme, machine, table

STEPS = {
    "ingest": ["benchmarks.ingest"],
    "stow": ["benchmarks.stow"],
    "senders": ["benchmarks.senders"],
    "memory": ["benchmarks.memory"],
    "overhead": ["benchmarks.overhead"],
    "batching": ["benchmarks.batching"],
    "dicomweb": ["benchmarks.dicomweb"],
    "query": ["benchmarks.query"],
    "query_index": ["benchmarks.query_index"],
    "retrieve": ["benchmarks.retrieve"],
    "preprocessing": ["benchmarks.preprocessing"],
    "routing": ["benchmarks.routing"],
    "forwarding": ["benchmarks.forwarding"],
    "queue": ["benchmarks.queue"],
    "workitems": ["benchmarks.workitems"],
    "kill9": ["benchmarks.campaigns.kill9"],
    "powercut": ["benchmarks.campaigns.powercut"],
}
SMALL = {
    "ingest": ["--repetitions", "1", "--shrink", "10"],
    "stow": ["--repetitions", "1", "--shrink", "5"],
    "senders": ["--repetitions", "1", "--count", "50"],
    "memory": ["--megabytes", "100"],
    "overhead": ["--runs", "1"],
    "batching": ["--repetitions", "1", "--films", "4", "--batch", "4"],
    "dicomweb": ["--repetitions", "2"],
    "query": ["--repetitions", "2", "--studies", "500"],
    "query_index": ["--repeats", "3", "--studies", "20000"],
    "retrieve": ["--repetitions", "1", "--slices", "20"],
    "preprocessing": ["--repetitions", "1", "--side", "256"],
    "routing": ["--studies", "500", "--repeats", "5"],
    "forwarding": ["--repetitions", "1", "--studies", "1", "--images", "20"],
    "workitems": ["--repetitions", "1", "--workitems", "40"],
    "queue": ["--jobs", "200", "--runs", "1", "--kills", "5"],
    "kill9": ["--kills", "5"],
    "powercut": ["--cuts", "2", "--orthanc-cuts", "1"],
}


def main() -> None:
    """Run the benchmarks one after the other; one that fails is named and the others go on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes; nothing is kept")
    parser.add_argument("--no-readme", action="store_true", help="leave the README alone")
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in arguments.only:
        print(f"\n## {name}", flush=True)
        options = SMALL[name] if arguments.small else ["--save"]
        if subprocess.run([sys.executable, "-m", *STEPS[name], *options], cwd=ROOT).returncode:
            failed.append(name)
        elif not arguments.small and not arguments.no_readme:
            keep(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def keep(name: str) -> None:
    """Put one benchmark's table and the machine that it ran on into the README."""
    into_readme(ROOT / "README.md", name, (RESULTS / f"{name}.md").read_text(encoding="utf-8"))
    into_readme(ROOT / "README.md", "machine", table(list(machine()), [[str(value) for value in machine().values()]]))


if __name__ == "__main__":
    main()
