"""What a run's model is given, input by input: kept with the run, and taken apart again when it is carried out.

The run's parameters say which series is which input, so the same series in other places are another run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dicom_node.results.context import FurtherInput, ResultContext
from dicom_node.work.inference import FilePart
from models.bundle import Bundle
from storage.records import RunRecord
from storage.runs import INPUTS

if TYPE_CHECKING:
    from models.volume import Volume

Parts = tuple[FilePart, ...]


def with_inputs(bundle: Bundle, group: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of a run; ``group``: input > series, "" of a model's only one."""
    first = bundle.dicom.inputs[0].name
    inputs = {INPUTS: {name or first: uid for name, uid in group.items()}} if len(bundle.dicom.inputs) > 1 else {}
    return {**bundle.dicom.model.parameters, **inputs}


def by_input(bundle: Bundle, run: RunRecord, image: Callable[[str, str], tuple[str, FilePart]]) -> tuple[Parts, tuple[Parts, ...]]:
    """The images of a run's first input, and those of each further one, in the bundle's order.

    Parameters
    ----------
    image
        Gives the series and the place of an instance, by its UID and digest.
    """
    of_series: dict[str, list[FilePart]] = defaultdict(list)
    everything = []
    for uid, digest in run.input_set:
        series_uid, part = image(uid, digest)
        of_series[series_uid].append(part)
        if series_uid in run.series_uids:  # else what another model found, which only had to come first
            everything.append(part)
    if len(bundle.dicom.inputs) == 1:
        return tuple(everything), ()
    chosen: Mapping[str, str] = run.parameters.get(INPUTS, {})
    first, *others = (tuple(of_series.get(chosen.get(each.name, ""), ())) for each in bundle.dicom.inputs)
    return first, tuple(others)


def named(context: ResultContext, bundle: Bundle, volume: Volume) -> ResultContext:
    """The context of results that also names the series of further inputs."""
    from models.reader import Stack

    if not isinstance(volume, Stack):
        return context
    found = []
    for spec, other in zip(bundle.dicom.inputs[1:], volume.others, strict=True):
        if other is not None:
            first = other.headers[0]
            instances = {str(header.SOPInstanceUID): str(header.SOPClassUID) for header in other.headers}
            pairs = tuple((sop_class, uid) for uid, sop_class in instances.items())
            found.append(FurtherInput(spec.name, str(first.StudyInstanceUID), str(first.SeriesInstanceUID), pairs))
    return replace(context, inputs=tuple(found))
