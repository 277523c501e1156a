"""The preprocessing graph of a bundle: one deterministic object that training, evaluation and serving run alike.

It is the list of MONAI transforms that stands under ``preprocessing`` in configs/inference.json, without the
loading at its head, which is the reader's. What is random (augmentation) comes after it and is no part of it.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monai.bundle.config_item import ComponentLocator
from monai.bundle.config_parser import ConfigParser
from monai.transforms.compose import Compose
from monai.utils.module import optional_import

from models.bundle import Bundle
from models.errors import BundleInvalid

Step = dict[str, Any]
LOADING = frozenset({"LoadImage", "EnsureChannelFirst", "AddChannel"})
SPATIAL_MODULES = ("monai.transforms.spatial.", "monai.transforms.croppad.")
INTERPOLATING_MODULE = "monai.transforms.spatial."
MOVING = frozenset({"Transposed"})  # spatial although they stand elsewhere in MONAI
SMOOTHING = ("anti_aliasing", "anti_aliasing_sigma")  # which would make fractions of labels
PADDING_VALUES = ("value", "constant_values", "mode", "padding_mode")


class Preprocessing:
    """A graph of transforms over ``{"image": MetaTensor}``, (channels, x, y[, z]) with its affine.

    Parameters
    ----------
    steps
        MONAI component configurations, in order.
    context
        The rest of the bundle's configuration, to which steps may refer with ``@``.
    image, mask
        Keys of the data dictionary.
    """

    def __init__(
        self, steps: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None = None, *, image: str = "image", mask: str = "mask"
    ) -> None:
        self.steps: tuple[Step, ...] = tuple(copy.deepcopy(dict(step)) for step in _without_loading(steps))
        self._context = dict(context or {})
        self.image_key = image
        self.mask_key = mask

    @classmethod
    def from_config(cls, steps: Sequence[Mapping[str, Any]]) -> Preprocessing:
        """Take the list of a configuration: ``[{"_target_": "ScaleIntensityd", "keys": "image"}, ...]``."""
        return cls(steps)

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Preprocessing:
        """Take the graph that a bundle serves with.

        Raises
        ------
        BundleInvalid
            It has none, or not as a list of transforms.
        """
        section = bundle.inference.get(bundle.dicom.run.preprocessing)
        steps = section.get("transforms") if isinstance(section, Mapping) else section
        if not isinstance(steps, list) or not all(isinstance(step, Mapping) and "_target_" in step for step in steps):
            raise BundleInvalid(f"'{bundle.dicom.run.preprocessing}' of configs/inference.json is no list of transforms")
        context = {**bundle.inference, "bundle_root": str(bundle.root), **bundle.dicom.run.overrides}
        return cls(steps, context, image=bundle.dicom.run.image)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the steps, the same wherever and however they are written down."""
        return hashlib.sha256(json.dumps(self.steps, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()

    def image(self) -> Compose:
        """The graph over ``{"image": ...}``."""
        return self._compose(list(self.steps))

    def with_mask(self) -> Compose:
        """The graph over ``{"image": ..., "mask": ...}``: the mask goes where the image goes, and keeps its labels.

        A step that moves pixels is done to the mask first, with the same box or grid (nearest voxel, padded with
        background), then to the image; a step that changes values leaves the mask alone.
        """
        steps: list[Step] = []
        for step in self.steps:
            kind = _transform_class(step)
            if self.image_key in _keys(step) and _moves(kind):
                steps.append(self._for_mask(step, kind))
            steps.append(step)
        return self._compose(steps)

    def _for_mask(self, step: Step, kind: type) -> Step:
        changed = {name: value for name, value in step.items() if name not in (*PADDING_VALUES, *SMOOTHING)}
        changed["keys"] = self.mask_key
        parameters = inspect.signature(kind).parameters
        if kind.__module__.startswith(INTERPOLATING_MODULE) and "mode" in parameters:
            changed["mode"] = "nearest"
            if "padding_mode" in parameters:
                changed["padding_mode"] = "zeros"
        return changed

    def _compose(self, steps: list[Step]) -> Compose:
        parser = ConfigParser({**copy.deepcopy(self._context), "_steps": copy.deepcopy(steps)})
        try:
            return Compose(parser.get_parsed_content("_steps"))
        except Exception as error:  # configurations are foreign and raise anything
            raise BundleInvalid(f"the preprocessing cannot be built: {str(error)[:300]}") from error


def _without_loading(steps: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    head = True
    for step in steps:
        name = str(step.get("_target_", "")).rsplit(".", 1)[-1].removesuffix("ict").removesuffix("D").removesuffix("d")
        head = head and name in LOADING
        if not head:
            yield step


def _keys(step: Step) -> tuple[str, ...]:
    keys = step.get("keys", ())
    return (keys,) if isinstance(keys, str) else tuple(keys)


def _moves(kind: type) -> bool:
    """Whether a transform moves pixels; ours say so themselves (``spatial = True``)."""
    return kind.__module__.startswith(SPATIAL_MODULES) or kind.__name__ in MOVING or bool(getattr(kind, "spatial", False))


def _transform_class(step: Step) -> type:
    target = str(step["_target_"])
    if "." not in target:
        found = ComponentLocator().get_component_module_name(target)
        module = found[0] if isinstance(found, list) else found
        if module is None:
            raise BundleInvalid(f"the preprocessing names the transform '{target}', which MONAI does not have")
        target = f"{module}.{target}"
    module, _, name = target.rpartition(".")
    kind, known = optional_import(module, name=name)
    if not known or not isinstance(kind, type):
        raise BundleInvalid(f"the preprocessing names the transform '{target}', which there is not")
    return kind
