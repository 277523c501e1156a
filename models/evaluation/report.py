"""The report as JSON (what gates and monitors read) and the per-item table."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.evaluation import segmentation
from models.evaluation.bootstrap import LEVEL, Figure
from models.evaluation.evaluate import Report

SCHEMA = 1


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON's types; a figure that is not defined is null, never NaN."""
    model, measured = report.model, report.measured
    return {
        "schema": SCHEMA,
        "bundle": {"name": model.name, "version": model.version, "digest": model.digest},
        "data": asdict(report.data),
        "created": report.created,
        "task": measured.task,
        "classes": list(measured.classes),
        "headline": report.headline,
        "metrics": {name: _figure(each) for name, each in report.figures.items()},
        "interval": {"level": LEVEL, "method": "percentile bootstrap by subject", "replicates": report.replicates, "seed": report.seed},
        "subgroups": {
            attribute: {
                name: {
                    "items": group.items,
                    "subjects": group.subjects,
                    "small": group.small,
                    "metrics": {metric: _figure(each) for metric, each in group.figures.items()},
                }
                for name, group in groups.items()
            }
            for attribute, groups in report.subgroups.items()
        },
        "gaps": {
            attribute: {
                "metric": gap.metric,
                "better": gap.better,
                "worse": gap.worse,
                **_figure(gap.difference),
                "clear": gap.clear,
                "pairs": gap.pairs,
            }
            for attribute, gap in report.gaps.items()
        },
        "thresholds": {label: asdict(each) for label, each in report.thresholds.items()},
        "bland_altman": _agreement(report),
        "comparison": _comparison(report),
        "unanswered": [{"id": case.id, "reason": case.reason} for case in report.unanswered],
        "skipped": [asdict(each) for each in measured.skipped],
        "notes": list(report.notes),
    }


def _figure(figure: Figure) -> dict[str, Any]:
    return {
        "value": _number(figure.value),
        "low": _number(figure.low),
        "high": _number(figure.high),
        "n": figure.n,
        "method": figure.method,
    }


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _agreement(report: Report) -> dict[str, Any]:
    measured = report.measured
    if measured.task != "segmentation":
        return {}
    return {name: {**segmentation.bland_altman(measured.cases, name), "unit": volume_unit(report)} for name in measured.classes}


def volume_unit(report: Report) -> str:
    """Of volumes, or of areas in 2-D."""
    if report.measured.dimensions == 2:
        return f"{report.measured.unit}²"
    return "mL"


def _comparison(report: Report) -> dict[str, Any] | None:
    other = report.comparison
    if other is None:
        return None
    return {
        "bundle": {"name": other.model.name, "version": other.model.version, "digest": other.model.digest},
        "metrics": {name: _figure(each) for name, each in other.figures.items()},
        "differences": {name: _figure(each) for name, each in other.differences.items()},
    }


def write_json(report: Report, path: Path) -> None:
    """Write the JSON, whole or not at all."""
    _write(path, json.dumps(as_json(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_items(report: Report, path: Path) -> None:
    """Write one line an item: id, subject, attributes, values or scores with the truth, and the reason of no answer."""
    cases = report.measured.cases
    attributes = sorted({name for case in cases for name in case.attributes})
    values = list(dict.fromkeys(name for case in cases for name in case.values))
    labels = list(report.measured.classes) if report.measured.task == "classification" else []
    header = ["id", "subject", *attributes, *values, *(f"{kind}.{label}" for label in labels for kind in ("truth", "score")), "no_answer"]
    partial = path.with_name(path.name + ".part")
    with partial.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(header)
        for case in cases:
            cells: list[Any] = [case.id, case.subject, *(_cell(case.attributes, name) for name in attributes)]
            cells += [_cell(case.values, name) for name in values]
            cells += [_cell(each, label) for label in labels for each in (case.truth, case.scores)]
            table.writerow([*cells, case.reason or ""])
    partial.replace(path)


def _cell(values: Mapping[str, Any], name: str) -> Any:
    value = values.get(name)
    return "" if value is None else value


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
