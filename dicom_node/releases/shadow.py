"""Shadow runs: a release that looks on gets the input of the one in use. Nothing of it is archived, shown as a result or sent.

Its run keeps what it found in numbers, and how far it agrees with the run whose result went out: overlap of each structure (Dice), the
measurements side by side, whether decisions are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, BinaryIO

from storage.records import RunRecord

if TYPE_CHECKING:
    from models.findings import Prediction

PRIORITY = -1000  # below whatever rules give: looking on waits for work that counts


def compare(prediction: Prediction, segmentations: Sequence[BinaryIO], live: Mapping[str, Any]) -> dict[str, Any]:
    """How far a prediction agrees with a run that went out.

    Parameters
    ----------
    segmentations
        The SEG objects of that run.
    live
        Its findings, as its row keeps them.
    """
    from dicom_node.work.inference import shown

    mine = shown(prediction)
    return {
        "segments": _overlaps(prediction, segmentations),
        "measurements": _measurements(live.get("measurements", []), mine["measurements"]),
        "classifications": _decisions(live.get("classifications", []), mine["classifications"]),
    }


def _overlaps(prediction: Prediction, segmentations: Sequence[BinaryIO]) -> dict[str, dict[str, Any]]:
    import numpy as np
    from highdicom.seg import segread

    from dicom_node.results.readback import segment_pixels

    masks: dict[str, Any] = {}
    for stream in segmentations:
        segmentation = segread(stream)
        for description in segmentation.SegmentSequence:
            pixels = segment_pixels(segmentation, int(description.SegmentNumber), prediction)
            masks[str(description.SegmentLabel)] = pixels.astype(np.float32) >= 0.5  # of probabilities as well
    found = {}
    for segment in prediction.segments:
        other = masks.pop(segment.label, None)
        before = 0 if other is None else int(np.count_nonzero(other))
        both = 0 if other is None else int(np.count_nonzero(segment.mask & other))
        found[segment.label] = _dice(before, int(segment.mask.sum()), both)
    for label, other in masks.items():
        found[label] = _dice(int(np.count_nonzero(other)), 0, 0)
    return found


def _dice(live: int, shadow: int, both: int) -> dict[str, Any]:
    """Overlap of two masks; two empty ones agree."""
    return {"dice": 2 * both / (live + shadow) if live + shadow else 1.0, "live_voxels": live, "shadow_voxels": shadow}


def _measurements(live: Sequence[Mapping[str, Any]], shadow: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    values = {(each["name"], each["of"], each["unit"]): each["value"] for each in live}
    return [
        {
            "name": each["name"], "of": each["of"], "unit": each["unit"],
            "live": values.get((each["name"], each["of"], each["unit"])), "shadow": each["value"],
        }
        for each in shadow
    ]  # fmt: skip


def _decisions(live: Sequence[Mapping[str, Any]], shadow: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    before = {each["label"]: each["positive"] for each in live}
    found = {}
    for each in shadow:
        was = before.get(each["label"])
        found[each["label"]] = {"live": was, "shadow": each["positive"], "same": was == each["positive"]}
    return found


@dataclass(frozen=True)
class Agreement:
    """What shadow runs came to, over all that were looked at."""

    runs: int = 0
    states: Mapping[str, int] = field(default_factory=dict)
    compared: int = 0
    dice: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # structure > mean, least
    same: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # decision > how often the same, of how many

    def lines(self) -> list[str]:
        """In words."""
        states = ", ".join(f"{number} {state}" for state, number in sorted(self.states.items()))
        lines = [f"{self.runs} runs ({states}), {self.compared} compared with what went out"]
        lines += [f"{label}: Dice {mean:.4f} on average, {least:.4f} at least" for label, (mean, least) in sorted(self.dice.items())]
        lines += [f"{label}: the same decision in {same} of {number}" for label, (same, number) in sorted(self.same.items())]
        return lines


def summarise(runs: Sequence[RunRecord]) -> Agreement:
    """Sum up shadow runs."""
    states: dict[str, int] = {}
    dice: dict[str, list[float]] = {}
    same: dict[str, list[bool]] = {}
    compared = 0
    for run in runs:
        states[run.state] = states.get(run.state, 0) + 1
        compared += run.compared_with is not None
        for label, each in (run.agreement or {}).get("segments", {}).items():
            dice.setdefault(label, []).append(each["dice"])
        for label, each in (run.agreement or {}).get("classifications", {}).items():
            if each["live"] is not None:
                same.setdefault(label, []).append(each["same"])
    return Agreement(
        runs=len(runs),
        states=states,
        compared=compared,
        dice={label: (fmean(values), min(values)) for label, values in dice.items()},
        same={label: (sum(values), len(values)) for label, values in same.items()},
    )
