"""From the output tensor of a bundle to segments, measurements and classifications."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.spatial.array import SpatialResample
from numpy.typing import NDArray

from models.bundle import Bundle
from models.errors import InferenceFailed
from models.findings import Classification, Code, Measurement, ModelIdentity, Segment
from models.planar import METHODS
from models.reader import Axes
from models.spec import UNITS, DicomSpec, MeasurementSpec
from models.volume import Volume

Findings = tuple[tuple[Segment, ...], tuple[Measurement, ...], tuple[Classification, ...]]

AFFINE_TOLERANCE = 1e-3

#: The unit of an area where the size of a pixel is not known.
PIXELS = Code("{pixels}", "UCUM", "pixels")


def identity_of(bundle: Bundle) -> ModelIdentity:
    """Name, version and release digest, as results carry them."""
    model = bundle.dicom.model
    return ModelIdentity(
        name=model.name,
        version=model.version,
        manufacturer=model.manufacturer,
        digest=bundle.digest,
        family=model.family.code(),
        intended_use=model.intended_use,
        licence=model.licence,
        parameters=dict(model.parameters),
        experimental=model.experimental,
    )


def read_output(spec: DicomSpec, output: torch.Tensor, volume: Volume) -> Findings:
    """Findings of an output tensor: (1, x, y[, z]) labels, (channels, x, y[, z]), or scores."""
    if spec.output.form == "scores":
        return (), scores(spec, output), classifications(spec, output)
    masks = _masks(spec, on_source_grid(output, volume, Axes(spec.run.axes)))
    segments = tuple(
        Segment(
            number=number,
            label=segment.label,
            category=segment.category.code(),
            type=segment.type.code(),
            mask=masks[segment.value],
            color=segment.color,
            tracking_id=segment.tracking or segment.label,
        )
        for number, segment in enumerate(spec.segment, start=1)
    )
    return segments, measurements(spec, {s.label: s for s in segments}, volume), ()


def on_source_grid(output: torch.Tensor, volume: Volume, axes: Axes) -> NDArray[Any]:
    """(channels, slices, rows, columns) on the grid of the source images; nearest-voxel resampling
    where the bundle did not invert its own."""
    shape, source = axes.array(volume).shape, axes.affine(volume)
    if output.ndim != len(shape) + 1:
        raise InferenceFailed("postprocess", f"the output has {output.ndim} dimensions; channels and {len(shape)} axes are expected")
    affine = np.asarray(output.affine.cpu()) if isinstance(output, MetaTensor) else source
    if tuple(output.shape[1:]) != shape or not np.allclose(affine, source, atol=AFFINE_TOLERANCE):
        if not isinstance(output, MetaTensor):
            raise InferenceFailed("postprocess", "the output is not on the source grid and carries no affine")
        back = SpatialResample(mode="nearest", padding_mode="zeros")
        output = back(output.float(), dst_affine=torch.as_tensor(source), spatial_size=shape)
    plain = output.as_tensor() if isinstance(output, MetaTensor) else output
    return axes.to_frames(plain.cpu().numpy())


def _masks(spec: DicomSpec, array: NDArray[Any]) -> Mapping[int, NDArray[np.bool_]]:
    values = [segment.value for segment in spec.segment]
    if spec.output.form == "labels":
        if len(array) != 1:
            raise InferenceFailed("postprocess", f"one channel of labels is expected, the output has {len(array)}")
        return {value: np.ascontiguousarray(array[0] == value) for value in values}
    if max(values) >= len(array):
        raise InferenceFailed("postprocess", f"dicom.toml names channel {max(values)}, the output has {len(array)}")
    return {value: np.ascontiguousarray(array[value] >= spec.output.threshold) for value in values}


def measurements(spec: DicomSpec, segments: Mapping[str, Segment], volume: Volume) -> tuple[Measurement, ...]:
    """Volumes and areas by counting voxels of the source grid; none for a segment without a voxel."""
    measured = [(item, segments[item.segment]) for item in spec.measurement if item.segment is not None]
    return tuple(_measured(item, segment, volume) for item, segment in measured if not segment.empty)


def _measured(item: MeasurementSpec, segment: Segment, volume: Volume) -> Measurement:
    unit, method, derivation = item.unit.code(), item.method, item.derivation
    value = float(np.count_nonzero(segment.mask))
    stated = None
    if item.quantity == "volume":
        value *= volume.voxel_ml * UNITS["volume"][unit.value]
    elif volume.pixel is None:
        unit = PIXELS
    else:
        value *= volume.pixel.area * UNITS["area"][unit.value]
        stated = METHODS[volume.pixel.plane]
    return Measurement(
        name=item.name.code(),
        value=value,
        unit=unit,
        segment=segment.number,
        method=method.code() if method else stated,
        derivation=derivation.code() if derivation else (stated if method else None),
    )


def scores(spec: DicomSpec, output: torch.Tensor) -> tuple[Measurement, ...]:
    """Numbers from a vector of scores, about the whole input."""
    return tuple(
        Measurement(
            name=item.name.code(),
            value=_score(output, item.channel),
            unit=item.unit.code(),
            segment=None,
            method=item.method.code() if item.method else None,
            derivation=item.derivation.code() if item.derivation else None,
        )
        for item in spec.measurement
        if item.channel is not None
    )


def classifications(spec: DicomSpec, output: torch.Tensor) -> tuple[Classification, ...]:
    """Decisions from a vector of scores."""
    found = []
    for item in spec.classification:
        score = _score(output, item.channel)
        positive = score >= item.threshold
        value = (item.positive if positive else item.negative).code()
        found.append(Classification(item.name.code(), item.label, value, score, item.threshold, positive))
    return tuple(found)


def _score(output: torch.Tensor, channel: int) -> float:
    values = output.flatten()
    if channel >= len(values):
        raise InferenceFailed("postprocess", f"dicom.toml names score {channel}, the output has {len(values)}")
    return float(values[channel])
