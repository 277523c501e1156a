"""A training from data set to bundle."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file

from models.datasets.fingerprint import fingerprint
from models.datasets.protocol import DataSet, Item, Skipped
from models.preprocess import Preprocessing
from models.training.batches import Augmented, loader, seed_of
from models.training.bundle_writer import Contents, write_bundle
from models.training.components import component, transforms
from models.training.config import TrainingConfig
from models.training.errors import TrainingRefused
from models.training.loop import Reporter, Silent, Trainer
from models.training.prepared import Prepared, Store, lacking
from models.training.record import Record, write_skipped
from models.training.task import Learner, learner_of

PARTS = ("train", "validation", "test")


class Listener(Reporter, Protocol):
    """A reporter that also hears of the preparation."""

    def preparing(self, done: int, of: int) -> None: ...

    def note(self, text: str) -> None: ...


class SilentListener(Silent):
    """Tells nobody."""

    def preparing(self, done: int, of: int) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class Trained:
    """Where the bundle is, and what became of the training."""

    folder: Path
    record: Record


def work_folder(out: Path) -> Path:
    """Where checkpoints, cache, log and the list of skipped items lie while a bundle is made."""
    return out.with_name(out.name + ".training")


def train(
    config: TrainingConfig,
    dataset: DataSet,
    splits: Mapping[str, str],
    out: Path,
    *,
    resume: bool = False,
    cache: Path | None = None,
    listener: Listener | None = None,
) -> Trained:
    """Train and write the bundle folder ``out``.

    Parameters
    ----------
    splits
        Item id to ``train``, ``validation`` or ``test``.
    resume
        Go on from the last checkpoint, where there is one.
    cache
        Where prepared items are kept; beside the checkpoints by default.

    Raises
    ------
    TrainingRefused
        The configuration or the data cannot be trained on, or ``out`` holds something already.
    Diverged
        The loss became no number; the last checkpoint stays.
    """
    job = _Job(config, dataset, splits, out, cache, listener or SilentListener())
    return job.run(resume)


class _Job:
    def __init__(
        self, config: TrainingConfig, dataset: DataSet, splits: Mapping[str, str], out: Path, cache: Path | None, listener: Listener
    ) -> None:
        self.config, self.dataset, self.out, self.listener = config, dataset, out, listener
        self.splits = splits
        self.work = work_folder(out)
        self.classes = config.data.classes or tuple(dataset.classes)
        self.learner: Learner = learner_of(config, self.classes)
        preprocessing = Preprocessing.from_config([dict(each) for each in config.preprocessing])
        self.store = Store(
            preprocessing, self.classes, cache or self.work / "cache", config.run.memory * 1e9, boxes=config.task == "detection"
        )

    def run(self, resume: bool) -> Trained:
        self._check_place(resume)
        if self.config.run.threads:
            torch.set_num_threads(self.config.run.threads)
        parts, skipped = self._prepare()
        self._check_parts(parts)
        torch.manual_seed(seed_of(self.config.run.seed, -1))
        network = self._network(parts["train"][0])
        trainer = self._trainer(network, parts)
        if resume and trainer.resume():
            self.listener.note(f"going on after epoch {trainer.state.epoch} of {self.config.run.epochs}")
        state = trainer.run()
        network.load_state_dict(trainer.best)
        network.eval()
        with torch.inference_mode():
            self.learner.finish(network, (self.store.get(item) for item in parts["validation"]), trainer.device)
        record = self._record(trainer, parts, skipped, self._test(network, parts["test"], trainer.device))
        contents = self._contents(network, parts, record, trainer.best)
        write_bundle(self.config, contents, self.out)
        assert state.epoch
        return Trained(self.out, record)

    def _check_place(self, resume: bool) -> None:
        if self.out.exists():
            raise TrainingRefused(f"{self.out} exists already; take another folder for the result")
        if (self.work / "last.pt").exists() and not resume:
            raise TrainingRefused(f"{self.work} has the checkpoint of an earlier training: go on with --resume, or remove it")
        self.work.mkdir(parents=True, exist_ok=True)

    def _prepare(self) -> tuple[dict[str, list[Item]], list[Skipped]]:
        items = [item for item in self.dataset if self.splits.get(item.id) in PARTS]
        unlabelled = [self._unlabelled(item) for item in items]
        skipped = [*self.dataset.skipped, *(each for each in unlabelled if each)]
        usable = [item for item, problem in zip(items, unlabelled, strict=True) if problem is None]
        good, unreadable = self.store.prepare(usable, self.listener.preparing)
        skipped += unreadable
        write_skipped(skipped, self.work / "skipped.jsonl")
        for each in skipped:
            self.listener.note(f"skipped {each.where} ({each.row}): {each.reason}")
        return {name: [item for item in good if self.splits[item.id] == name] for name in PARTS}, skipped

    def _unlabelled(self, item: Item) -> Skipped | None:
        row = item.provenance.get("row", item.id)
        where = str(item.image[0]) if item.image else item.id
        if self.config.task == "segmentation" and item.mask is None:
            return Skipped(where, row, "it has no mask")
        if self.config.task == "classification" and not any(name in item.labels for name in self.classes):
            return Skipped(where, row, "it has none of the labels")
        return None

    def _check_parts(self, parts: Mapping[str, Sequence[Item]]) -> None:
        problems = [f"no usable item is in the part '{name}'" for name in ("train", "validation") if not parts[name]]
        subjects = {name: {item.subject for item in items} for name, items in parts.items()}
        everyone = set().union(*subjects.values())
        if len(everyone) < 2:
            problems.append(f"the data are of {len(everyone)} subject; training and validation need different ones")
        for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
            both = subjects[one] & subjects[other]
            if both:
                problems.append(f"{len(both)} subjects are both in {one} and {other}")
        if not problems and self.config.task in ("segmentation", "classification", "detection"):
            for name in ("train", "validation"):
                absent = lacking((self.store.get(item) for item in parts[name]), self.classes)
                if absent:
                    problems.append(f"no item of the part '{name}' shows {', '.join(absent)}")
        if problems:
            raise TrainingRefused(f"{self.dataset.name}: " + "; ".join(problems) + f". Items passed over: {self.work / 'skipped.jsonl'}")

    def _network(self, item: Item) -> torch.nn.Module:
        network = component(self.config.network, "network")
        if not isinstance(network, torch.nn.Module):
            raise TrainingRefused(f"[network] {self.config.network.get('_target_')} is no network")
        expected = self.learner.output_channels()
        shape = self.config.patches.size if self.config.patches else self.store.get(item).image.shape[1:]
        given = _channels(network, torch.zeros(1, self.store.get(item).image.shape[0], *shape))
        if expected is not None and given != expected:
            raise TrainingRefused(f"[network] gives {given} channels; {expected} are needed for {', '.join(self.classes)}")
        if self.config.run.pretrained:
            self._load_pretrained(network, Path(self.config.run.pretrained))
        return network

    def _load_pretrained(self, network: torch.nn.Module, path: Path) -> None:
        try:
            found = load_file(path)
        except Exception as error:
            raise TrainingRefused(f"pretrained weights {path} cannot be read ({type(error).__name__})") from error
        own = network.state_dict()
        fitting = {name: tensor for name, tensor in found.items() if name in own and own[name].shape == tensor.shape}
        if not fitting:
            raise TrainingRefused(f"pretrained weights {path} have no tensor that fits the network")
        network.load_state_dict({**own, **fitting})
        self.listener.note(f"{len(fitting)} of {len(own)} tensors start from {path.name}")

    def _trainer(self, network: torch.nn.Module, parts: Mapping[str, Sequence[Item]]) -> Trainer:
        run = self.config.run
        augmentation = transforms([*_patching(self.config), *self.config.augmentation], "augmentation")
        augmented = Augmented(self.store, parts["train"], augmentation, self.learner.encode, run.seed)
        batches, sampler = loader(augmented, run.batch, run.workers)

        def validation() -> Iterator[Prepared]:
            return (self.store.get(item) for item in parts["validation"])

        ids = [f"{name}:{item.id}" for name in PARTS for item in parts[name]]
        identity = hashlib.sha256("\n".join((self.config.digest, *self.classes, *ids)).encode()).hexdigest()
        return Trainer(self.config, self.learner, network, batches, sampler, validation, self.work, identity, self.listener)

    def _test(self, network: torch.nn.Module, items: Sequence[Item], device: torch.device) -> dict[str, float]:
        if not items:
            return {}
        with torch.inference_mode():
            return self.learner.validate(network, (self.store.get(item) for item in items), device)

    def _record(
        self, trainer: Trainer, parts: Mapping[str, Sequence[Item]], skipped: Sequence[Skipped], figures: dict[str, float]
    ) -> Record:
        state = trainer.state
        best = next((row for row in state.curve if row["epoch"] == state.best_epoch), {})
        names = ("epoch", "loss", "rate", "seconds")
        return Record(
            data=self.dataset.name,
            counts={name: len(items) for name, items in parts.items()},
            subjects={name: len({item.subject for item in items}) for name, items in parts.items()},
            curve=state.curve,
            best_epoch=state.best_epoch,
            validation={name: value for name, value in best.items() if name not in names},
            figures=figures,
            seconds=state.seconds,
            parameters=sum(parameter.numel() for parameter in trainer.network.parameters()),
            device=str(trainer.device),
            precision="single precision" if trainer.precision is None else str(trainer.precision).removeprefix("torch."),
            threads=torch.get_num_threads(),
            load=os.getloadavg()[0],
            skipped=skipped,
        )

    def _contents(
        self, network: torch.nn.Module, parts: Mapping[str, Sequence[Item]], record: Record, state: Mapping[str, torch.Tensor]
    ) -> Contents:
        image = self.store.get(parts["train"][0]).image
        outputs = self.learner.output_channels() or len(self.classes)
        return Contents(
            sections=self.learner.sections(),
            state=state,
            classes=self.classes,
            image_shape=tuple(image.shape),
            outputs=outputs,
            fingerprint=fingerprint(parts["train"]).to_json(),
            record=record,
        )


def _patching(config: TrainingConfig) -> list[dict[str, Any]]:
    """Patches are cut before the augmentation, from images that are padded to hold one."""
    if config.patches is None:
        return []
    size, keys = list(config.patches.size), ["image", "mask"] if config.task == "segmentation" else ["image"]
    pad: dict[str, Any] = {"_target_": "SpatialPadd", "keys": keys, "spatial_size": size}
    if config.task != "segmentation" or not config.patches.foreground:
        cut = {"_target_": "RandSpatialCropSamplesd", "keys": keys, "roi_size": size, "num_samples": config.patches.per_image}
        return [pad, {**cut, "random_size": False}]
    share = config.patches.foreground
    crop = {"_target_": "RandCropByPosNegLabeld", "keys": keys, "label_key": "mask", "spatial_size": size}
    return [pad, {**crop, "pos": share, "neg": 1 - share, "num_samples": config.patches.per_image, "allow_smaller": True}]


def _channels(network: torch.nn.Module, image: torch.Tensor) -> int:
    try:
        with torch.inference_mode():
            output = network.eval()(image)
    except Exception as error:
        size = "x".join(str(side) for side in image.shape[1:])
        raise TrainingRefused(f"[network] does not take an image of {size}: {type(error).__name__}: {str(error)[:200]}") from error
    return int((output[0] if isinstance(output, tuple | list) else output).shape[1])
