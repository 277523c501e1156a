"""Results: JSON and Markdown in benchmarks/results, and the tables between the README's markers."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WORK = ROOT / "build" / "benchmarks"
DATA = Path(os.environ.get("DICOM_NODE_DATA", ROOT.parent / "shared" / "data"))


def spread(values: Sequence[float], form: str = "{:.0f}") -> str:
    """Return median and range of `values`, or a dash where there are none."""
    if not values:
        return "-"
    if len(values) == 1:
        return form.format(values[0])
    return f"{form.format(median(values))} ({form.format(min(values))}-{form.format(max(values))})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def machine() -> dict[str, Any]:
    """Return what the figures depend on, and nothing that names the machine."""
    return {
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def save(name: str, result: dict[str, Any], text: str) -> None:
    """Keep one benchmark's result as JSON and as a table."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")


def into_readme(readme: Path, name: str, text: str) -> bool:
    """Put `text` between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`; return whether the markers are there."""
    content = readme.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- bench:{name} -->\n).*?(<!-- /bench:{name} -->)", re.DOTALL)
    changed, count = pattern.subn(lambda found: found[1] + "\n" + text + "\n" + found[2], content)
    if count:
        readme.write_text(changed, encoding="utf-8")
    return bool(count)
