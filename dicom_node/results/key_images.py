"""Which images of the source a person should look at, and findings in the few words that fit beside them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from models.findings import Measurement, ModelIdentity, Prediction

MOST = 8
FOR_REVIEW = "FOR REVIEW"
NOT_VERIFIED = f"{FOR_REVIEW} - made by an algorithm, not verified by a person"


def key_planes(prediction: Prediction) -> list[int]:
    """The planes, from 0 in volume order, in which the segments are largest, at most eight; without a segment the middle one."""
    planes = []
    for segment in prediction.segments:
        if not segment.empty:
            planes.append(int(np.argmax(segment.mask.sum(axis=(1, 2)))))
    count = len(prediction.frame_numbers) or len(prediction.sources)
    return sorted(dict.fromkeys(planes[:MOST])) or [count // 2]


def planes_with_findings(prediction: Prediction) -> list[int]:
    """Every plane that shows a segment; without one the middle one."""
    shown: set[int] = set()
    for segment in prediction.segments:
        shown.update(np.flatnonzero(segment.mask.any(axis=(1, 2))).tolist())
    return sorted(shown) or key_planes(prediction)


def title_of(model: ModelIdentity) -> str:
    """The algorithm, and that it is not validated where that is so."""
    return f"{model.name} {model.version}{', EXPERIMENTAL' if model.experimental else ''}"


def said_of(prediction: Prediction, number: int) -> str:
    """The measurements of a segment."""
    return ", ".join(_number(each) for each in prediction.measurements if each.segment == number)


def said_of_all(prediction: Prediction) -> Iterator[str]:
    """What belongs to the whole input, a line each."""
    for found in prediction.classifications:
        probability = "" if found.probability is None else f" ({found.probability:.2f})"
        yield f"{found.label}: {found.value.meaning}{probability}"
    for each in prediction.measurements:
        if each.segment is None:
            yield _number(each)
    for segment in prediction.segments:
        if segment.empty:
            yield f"{segment.label}: not found"
    if prediction.empty and not prediction.classifications:
        yield "nothing found"


def _number(measured: Measurement) -> str:
    unit = "" if measured.unit.value == "1" else f" {measured.unit.value}"
    return f"{measured.name.meaning} {measured.value:.5g}{unit}"
