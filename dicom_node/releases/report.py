"""An evaluation report: the JSON that ``dicom-node model evaluate`` writes, read strictly, since a release is deployed by it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dicom_node.errors import CommandFailed

MOST_BYTES = 16 * 1024**2


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class Metric(_Part):
    """A figure with its 95 % confidence interval over ``n`` items; None where it is not defined on the data."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "undefined"
        interval = "" if self.low is None or self.high is None else f" ({self.low:.4g} to {self.high:.4g})"
        return f"{self.value:.4g}{interval}"


class OfBundle(_Part):
    name: str
    version: str
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class OfData(_Part):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    fingerprint: str = ""
    split: str
    items: Annotated[int, Field(ge=0)]


class Report(_Part):
    """What of a report decides. ``metrics`` are by flat name, ``dice.lung``."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    bundle: OfBundle
    data: OfData
    created: str = ""
    metrics: Annotated[dict[str, Metric], Field(min_length=1)]


def read_report(path: Path) -> tuple[Report, bytes]:
    """Read a report's file, and its bytes as they are.

    Raises
    ------
    CommandFailed
        It cannot be read, or is no evaluation report; naming the key.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CommandFailed(f"{path} is larger than {MOST_BYTES >> 20} MiB: it is no evaluation report")
        content = path.read_bytes()
    except OSError as error:
        raise CommandFailed(f"the evaluation report {path} cannot be read: {error.strerror}") from error
    return parse_report(content, where=str(path)), content


def parse_report(content: bytes, *, where: str = "the report") -> Report:
    """Read a report from its bytes; see :func:`read_report`."""
    try:
        values = json.loads(content, parse_constant=_no_number)
        report = Report.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"'{'.'.join(str(part) for part in each['loc'])}': {each['msg']}" for each in error.errors(include_url=False))
        raise CommandFailed(f"{where} is no evaluation report: {problems}") from error
    except (ValueError, RecursionError) as error:
        raise CommandFailed(f"{where} is no evaluation report: {error}") from error
    wrong = [name for name, metric in report.metrics.items() if metric.value is not None and not math.isfinite(metric.value)]
    if wrong:
        raise CommandFailed(f"{where} is no evaluation report: '{wrong[0]}' is no number")
    return report


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} stands where a number is needed")


def plain_metrics(report: Report) -> dict[str, dict[str, Any]]:
    """The metrics as JSON has them."""
    return {name: metric.model_dump() for name, metric in report.metrics.items()}
