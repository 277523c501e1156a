"""Which findings of a run are urgent: what dicom.toml says about its classifications and measurements, held against what was found.

[[classification]]          [[alert]]
label = "Pneumothorax"      urgency = "critical"
urgency = "critical"        name = "Volume"          # the measurement's name, as its code means it
                            segment = "effusion"     # of this segment; none: of any
                            above = 500.0            # or below, or both: outside of what lies between
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from models.findings import Classification, Measurement, Prediction
    from models.spec import DicomSpec

Urgency = Literal["critical", "urgent"]
ORDER: Final = ("critical", "urgent")  # the most urgent first


class AlertSpec(BaseModel):
    """A measurement that makes a study urgent, in the unit in which dicom.toml has it reported."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    urgency: Urgency
    name: Annotated[str, Field(min_length=1, max_length=64)]
    segment: str | None = None
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> AlertSpec:
        if self.above is None and self.below is None:
            raise ValueError("above or below is needed: without either nothing is urgent")
        return self

    def of(self, value: float) -> str:
        """Why a value is urgent, as ``> 500``; empty where it is not."""
        if self.above is not None and value > self.above:
            return f"> {self.above:g}"
        if self.below is not None and value < self.below:
            return f"< {self.below:g}"
        return ""


def check(spec: DicomSpec) -> None:
    """Refuse an alert that could never be raised; raises ValueError."""
    for alert in spec.alert:
        known = [each for each in spec.measurement if each.name.meaning == alert.name]
        if not known:
            raise ValueError(f"an alert names the measurement '{alert.name}', and there is none of that name")
        if alert.segment is not None and alert.segment not in [each.segment for each in known]:
            raise ValueError(f"an alert names '{alert.name}' of the segment '{alert.segment}', which is not measured")


def raised(prediction: Prediction, spec: DicomSpec) -> list[dict[str, str]]:
    """The alerts of a run, the most urgent first.

    Returns
    -------
    list of dict
        ``urgency``, ``finding`` (the classification's label, or segment and name of the measurement) and ``reason``, in coded words and
        numbers: nothing of the patient.
    """
    found = [*_of_classifications(prediction, spec), *_of_measurements(prediction, spec)]
    return sorted(found, key=lambda alert: ORDER.index(alert["urgency"]))


def _of_classifications(prediction: Prediction, spec: DicomSpec) -> Iterator[dict[str, str]]:
    urgent = {each.label: each.urgency for each in spec.classification if each.urgency is not None}
    for each in prediction.classifications:
        if each.positive and each.label in urgent:
            yield {"urgency": urgent[each.label], "finding": each.label, "reason": _decision(each)}


def _decision(found: Classification) -> str:
    words = f"{found.name.meaning}: {found.value.meaning}"
    return words if found.probability is None else f"{words} ({found.probability:.2f})"


def _of_measurements(prediction: Prediction, spec: DicomSpec) -> Iterator[dict[str, str]]:
    labels = {segment.number: segment.label for segment in prediction.segments}
    for each in prediction.measurements:
        of = labels.get(each.segment or 0, "")
        bounds = [(alert.urgency, why) for alert in spec.alert if _about(alert, each, of) and (why := alert.of(each.value))]
        if bounds:
            urgency, why = min(bounds, key=lambda bound: ORDER.index(bound[0]))
            finding = f"{of} {each.name.meaning}".strip()
            yield {"urgency": urgency, "finding": finding, "reason": f"{finding}: {each.value:.4g} {each.unit.value} ({why})"}


def _about(alert: AlertSpec, found: Measurement, of: str) -> bool:
    return alert.name == found.name.meaning and alert.segment in (None, of)
