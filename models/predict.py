"""Predictor: a bundle made warm on one device, and run on volumes.

The stages are MONAI's, found by the names in [run] of dicom.toml: preprocessing > inferer(network) >
postprocessing. Results are brought to the grid of the source images. Only a worker's child process
calls this: making a Predictor evaluates the bundle's configuration, which is code.
"""

from __future__ import annotations

import copy
import gc
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle.config_parser import ConfigParser
from monai.data.meta_tensor import MetaTensor

from models.batching import Prepared, apply_together
from models.bundle import Bundle
from models.errors import BundleInvalid, InferenceFailed, ModelError, OutOfMemory
from models.findings import Prediction, Timings
from models.ladder import Configured, Rung, rungs
from models.memory import Choice, Course, Profile, Room, Use, choose
from models.meters import Meter, meter_of
from models.networks import Stopwatch, TimedNetwork, load_state
from models.output import identity_of, read_output
from models.reader import PLACEHOLDER, Axes, Stack, VolumeReader
from models.spec import WeightSpec
from models.stack import check_input, read_inputs
from models.volume import ImageFile, Volume
from models.weights import resolve_weights

LOADERS = frozenset({"LoadImage", "LoadImaged", "LoadImageD", "LoadImageDict"})
SAVERS = frozenset({"SaveImage", "SaveImaged", "SaveImageD", "SaveImageDict"})


class Predictor:
    """A bundle on a device, loaded once and used for many volumes.

    Parameters
    ----------
    bundle
        As read by :func:`models.bundle.load_bundle`.
    device
        ``cpu`` or ``cuda:N``.
    cache
        Where fetched weights lie; the user's cache directory by default.
    threads
        Threads of a CPU network; torch's own choice by default.
    expected_digest
        The release digest that was recorded for this bundle. Another one is refused before anything runs.
    meters
        What reads the memory of a device.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "cpu",
        *,
        cache: Path | None = None,
        threads: int | None = None,
        expected_digest: str | None = None,
        meters: Callable[[torch.device], Meter] = meter_of,
    ) -> None:
        self.bundle = bundle
        self.device = device
        self.cache = cache
        self.threads = threads
        self.expected_digest = expected_digest
        self.meters = meters
        self._stages: _Stages | None = None

    def load(self) -> float:
        """Load networks and transforms; seconds it took, 0 when already warm."""
        if self._stages is not None:
            return 0.0
        started = time.perf_counter()
        if self.expected_digest is not None and self.bundle.digest != self.expected_digest:
            raise BundleInvalid(f"bundle {self.bundle.name} has changed: its digest is not the recorded one")
        _prepare_device(self.device, self.threads)
        weights = resolve_weights(self.bundle, self.cache)
        with _stage("load"), _quiet_readers(), _importable(self.bundle.root):
            self._stages = _Stages(self.bundle, self.device, weights, self.meters)
        return time.perf_counter() - started

    def predict(self, volume: Volume, known: Sequence[Use] = ()) -> Prediction:
        """Run on one volume. ``known``: what this model's runs took of memory before, here or elsewhere.

        Raises
        ------
        NotApplicable
            The volume is not what the model is for.
        InferenceFailed
            A stage raised; OutOfMemory when the device was too small.
        """
        prepared = self.prepare(volume)
        self.apply([prepared], known)
        return self.finish(prepared)

    def prepare(self, volume: Volume) -> Prepared:
        """The first part of :meth:`predict`: what the network is to be applied to.

        Raises
        ------
        NotApplicable, InferenceFailed
        """
        check_input(self.bundle.dicom, volume)
        load = self.load()
        started = time.perf_counter()
        with torch.inference_mode(), _stage("preprocess"):
            data = self._warm.preprocess(volume)
        return Prepared(volume, data, load, time.perf_counter() - started)

    def apply(self, prepared: Sequence[Prepared], known: Sequence[Use] = ()) -> None:
        """The second part, of one volume, or of several at once where the bundle allows it (:attr:`models.bundle.Bundle.batches`).

        Of several, none raises here: :meth:`finish` raises what came of each. ``known``: as for :meth:`predict`.

        Raises
        ------
        NotApplicable, InferenceFailed
        """
        stages = self._warm
        stages.profile.learn(known)
        stages.stopwatch.reset()
        started = time.perf_counter()
        with torch.inference_mode():
            if len(prepared) == 1:
                prepared[0].rung, prepared[0].course = stages.infer_somehow(prepared[0].data)
            else:
                apply_together(stages, prepared)
        inferred, forward = time.perf_counter() - started, stages.stopwatch.seconds
        for each in prepared:  # of several, each has its share of the time
            each.forward, each.around = forward / len(prepared), (inferred - forward) / len(prepared)

    def finish(self, prepared: Prepared) -> Prediction:
        """The last part: what the network's output says.

        Raises
        ------
        NotApplicable, InferenceFailed
        """
        if prepared.error is not None:
            raise prepared.error
        stages, volume = self._warm, prepared.volume
        started = time.perf_counter()
        with torch.inference_mode(), _stage("postprocess"):
            output = stages.postprocess(prepared.data)
            segments, measurements, classifications = read_output(self.bundle.dicom, output, volume)
        timings = Timings(prepared.load, prepared.seconds + prepared.around, prepared.forward, time.perf_counter() - started)
        return Prediction(
            model=identity_of(self.bundle),
            segments=segments,
            measurements=measurements,
            classifications=classifications,
            sources=volume.sources,
            frame_numbers=volume.frame_numbers,
            device=str(stages.device),
            timings=timings,
            memory="" if prepared.rung is Rung.AS_CONFIGURED else f"too little memory as configured: {prepared.rung.value}",
            course=prepared.course,
        )

    @property
    def _warm(self) -> _Stages:
        assert self._stages is not None
        return self._stages

    def raw_output(self, volume: Volume) -> torch.Tensor:
        """What the networks give for one volume, before any postprocessing: (channels, ...) with the affine of the
        preprocessed image. For those who need more than is served, such as every box with its score.

        Raises
        ------
        NotApplicable, InferenceFailed
        """
        check_input(self.bundle.dicom, volume)
        self.load()
        assert self._stages is not None
        with torch.inference_mode():
            with _stage("preprocess"):
                data = self._stages.preprocess(volume)
            self._stages.infer_somehow(data)
        output: torch.Tensor = data[self._stages.prediction]
        return output


def run_model(bundle: Bundle, files: Sequence[ImageFile], device: str = "cpu", *, cache: Path | None = None) -> Prediction:
    """Read images and run a bundle on them once."""
    volume = read_inputs(bundle.dicom, [files])
    return Predictor(bundle, device, cache=cache).predict(volume)


class _Stages:
    """The parts of a bundle, instantiated."""

    def __init__(self, bundle: Bundle, device: str, weights: dict[str, Path], meters: Callable[[torch.device], Meter]) -> None:
        spec = bundle.dicom.run
        self.image, self.prediction = spec.image, spec.prediction
        self.home = self.device = torch.device(device)
        self.stopwatch = Stopwatch()
        self.reader = VolumeReader(Axes(spec.axes))
        parser = ConfigParser(_served(bundle.inference), globals={"dicom_node_reader": self.reader})
        parser.update({"bundle_root": str(bundle.root), "device": self.device, **spec.overrides})
        if isinstance(bundle.inference.get("weights"), dict):
            parser.update({f"weights::{Path(file).stem}": str(path) for file, path in weights.items()})
        self.networks = [self._network(parser, name, _states(bundle, name), weights) for name in spec.networks]
        self.inferer: Callable[..., Any] = parser.get_parsed_content(spec.inferer)
        self.preprocessing: Callable[..., Any] = parser.get_parsed_content(spec.preprocessing)
        self.postprocessing: Callable[..., Any] = parser.get_parsed_content(spec.postprocessing)
        self.configured = Configured.of(self.inferer)
        self.rungs = rungs(self.inferer, self.home)
        self.profile = Profile()
        self.meters = {device.type: meters(device) for device in (torch.device("cpu"), self.home)}

    def _network(self, parser: ConfigParser, name: str, states: Sequence[WeightSpec], weights: dict[str, Path]) -> TimedNetwork:
        network = parser.get_parsed_content(name)
        if not isinstance(network, torch.nn.Module):
            raise BundleInvalid(f"'{name}' of configs/inference.json is no network")
        for weight in states:
            load_state(network, weights[weight.file])
        timed = TimedNetwork(network.to(self.device).eval(), self.stopwatch).eval()
        parser.ref_resolver.resolved_content[name] = timed
        return timed

    def preprocess(self, volume: Volume) -> dict[str, Any]:
        self.reader.volume = volume
        self.reader.others = volume.priors if isinstance(volume, Stack) else {}
        try:
            named = {name: f"{PLACEHOLDER}:{name}" for name in self.reader.others}
            data: dict[str, Any] = self.preprocessing({self.image: PLACEHOLDER, **named})
        finally:
            self.reader.volume, self.reader.others = None, {}
        return data

    def infer_somehow(self, data: dict[str, Any]) -> tuple[Rung, Course]:
        """Apply the network on the first rung whose memory suffices, and say which; OutOfMemory where none does."""
        voxels = int(data[self.image].numel()) if hasattr(data[self.image], "numel") else 0
        uses: list[Use] = []
        begun = choice = self._choose(self.rungs, voxels)
        while choice.rung is not None:
            rung = Rung(choice.rung)
            uses.append(self._measured(partial(self.infer, data, rung), rung, voxels))
            self.profile.learn(uses[-1:])
            if uses[-1].fitted:
                return rung, Course(self.home.type, voxels, begun, tuple(uses))
            gc.collect()  # outside of the handler, whose traceback holds on to what did not fit
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            below = self.rungs[self.rungs.index(rung) + 1 :]
            if not below:
                break
            choice = self._choose(below, voxels)
        again = self._choose(self.rungs, voxels)
        course = Course(self.home.type, voxels, begun, tuple(uses))
        why = _too_little(uses, again)
        raise OutOfMemory("forward", why, course, later=again.later, final=again.rung is None and not again.later)

    def _choose(self, among: Sequence[Rung], voxels: int) -> Choice:
        """What to do with a volume, by what is known and free."""
        return choose([(self._kind(rung), rung.value) for rung in among], voxels, self.profile, self._room)

    def _kind(self, rung: Rung) -> str:
        return "cpu" if rung is Rung.ON_CPU else self.home.type

    def _room(self, kind: str) -> Room:
        return self.meters[kind].room()

    def _measured(self, infer: Callable[[], None], rung: Rung, voxels: int) -> Use:
        """Apply the network on a rung, and tell what it took; whatever else it raises goes on."""
        kind = self._kind(rung)
        meter = self.meters[kind]
        free = meter.room().free
        meter.begin()
        try:
            with _stage("forward"):
                infer()
        except OutOfMemory:
            return Use(kind, rung.value, voxels, free, fitted=False)
        return Use(kind, rung.value, voxels, meter.peak() or 0)

    def infer_together(self, several: Sequence[dict[str, Any]]) -> Course:
        """Apply the network once, as configured, to inputs of one shape; what is known of it as of one volume of all their voxels.

        Raises
        ------
        InferenceFailed
            It does not take several, or gives another number of outputs; OutOfMemory where too little memory is free by what is known, or
            when it was too little.
        """
        voxels = sum(math.prod(data[self.image].shape) for data in several)
        choice = self._choose([Rung.AS_CONFIGURED], voxels)
        needed, room = choice.estimate, choice.room
        if choice.rung is None or (needed is not None and room is not None and needed.needed > room.free):
            raise OutOfMemory("forward", f"too little memory is free for {len(several)} images at once ({choice.why})")
        use = self._measured(partial(self._infer_stacked, several), Rung.AS_CONFIGURED, voxels)
        self.profile.learn([use])
        if not use.fitted:
            raise OutOfMemory("forward", f"too little memory for {len(several)} images at once")
        told = replace(choice, why=f"{len(several)} images in one pass: {choice.why}")
        return Course(self.home.type, voxels, told, (use,))

    def _infer_stacked(self, several: Sequence[dict[str, Any]]) -> None:
        self._move_to(self.home)
        images = [data[self.image] for data in several]
        plain = [image.as_tensor() if isinstance(image, MetaTensor) else torch.as_tensor(image) for image in images]
        outputs = self.inferer(torch.stack(plain).to(self.device), self.networks[0])
        if not isinstance(outputs, torch.Tensor) or len(outputs) != len(several):
            raise InferenceFailed("forward", f"the network does not give {len(several)} outputs for as many inputs")
        for data, image, output in zip(several, images, outputs, strict=True):
            data[self.prediction] = MetaTensor(output, meta=copy.deepcopy(image.meta)) if isinstance(image, MetaTensor) else output

    def infer(self, data: dict[str, Any], rung: Rung) -> None:
        self._move_to(torch.device("cpu") if rung is Rung.ON_CPU else self.home)
        if self.configured is not None:
            self.configured.apply(self.inferer, rung, self.device)
        image = data[self.image]
        plain = image.as_tensor() if isinstance(image, MetaTensor) else torch.as_tensor(image)
        at = torch.device("cpu") if rung is Rung.STITCHED else self.device
        output = self.inferer(plain[None].to(at), self.networks[0])[0]
        data[self.prediction] = MetaTensor(output, meta=copy.deepcopy(image.meta)) if isinstance(image, MetaTensor) else output

    def _move_to(self, device: torch.device) -> None:
        """Put the networks where they are applied next."""
        if device != self.device:
            for network in self.networks:
                network.to(device)
            self.device = device

    def postprocess(self, data: dict[str, Any]) -> torch.Tensor:
        output = self.postprocessing(data)[self.prediction]
        return output if isinstance(output, torch.Tensor) else torch.as_tensor(np.asarray(output))


def _too_little(uses: Sequence[Use], choice: Choice) -> str:
    """Why a volume was not run, and what would help."""
    helps = "it needs a device or a limit with more"
    if uses:
        return f"too little memory ({'; '.join(use.rung for use in uses)}); {helps}"
    return f"too little memory is free now ({choice.why})" if choice.later else f"too little memory ({choice.why}); {helps}"


def _served(inference: dict[str, Any]) -> dict[str, Any]:
    """The configuration with images read from the volume and nothing written to files."""
    config = copy.deepcopy(inference)
    for component in _components(config):
        target = str(component["_target_"]).rsplit(".", 1)[-1]
        if target in LOADERS:
            component["reader"] = "$dicom_node_reader"
        elif target in SAVERS:
            component["_disabled_"] = True
    return config


def _components(config: Any) -> Iterator[dict[str, Any]]:
    if isinstance(config, dict):
        if "_target_" in config:
            yield config
        for value in config.values():
            yield from _components(value)
    elif isinstance(config, list):
        for value in config:
            yield from _components(value)


def _states(bundle: Bundle, network: str) -> list[WeightSpec]:
    """The weight files that fill ``network``: those that say so, or, in a bundle whose configuration
    places no weights itself, the ones that name no network, for the first."""
    named = [weight for weight in bundle.dicom.weights if weight.into == network]
    if "weights" in bundle.inference or network != bundle.dicom.run.networks[0]:
        return named
    return named or [weight for weight in bundle.dicom.weights if weight.into is None]


def _prepare_device(device: str, threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise InferenceFailed("load", f"device {device} was asked for and torch sees no CUDA device")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True


@contextmanager
def _importable(root: Path) -> Iterator[None]:
    """Let a bundle import its own ``scripts``, as MONAI's runner does, without leaving them to the next
    bundle, which may have modules of the same names."""
    before = set(sys.modules)
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(f"{root}{os.sep}"):
                del sys.modules[name]


@contextmanager
def _quiet_readers() -> Iterator[None]:
    """MONAI's LoadImage makes all its file readers, and those that lack a library complain; none of them is used."""
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
        yield


@contextmanager
def _stage(name: str) -> Iterator[None]:
    try:
        yield
    except ModelError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(name, "the device has too little memory") from error
    except Exception as error:  # a bundle is foreign code and raises anything
        if "alloc" in str(error) and "memory" in str(error):
            raise OutOfMemory(name, "the device has too little memory") from error
        raise InferenceFailed(name, f"{type(error).__name__}: {str(error)[:300]}") from error
