"""A training's TOML file, table by table.

    task = "segmentation" | "classification" | "detection" | "autoencoder" | "pretraining"
    [data]             DataWords          what the card says of the data
    [split]            SplitSpec          by subject, seeded
    [[preprocessing]]                     MONAI transforms: the deterministic graph that serving runs too
    [[augmentation]]                      MONAI transforms after it, in training only
    [patches]          PatchSpec          whole images where absent
    [network]                             a network of MONAI or of this project
    [loss]                                of MONAI or torch; each task has a default
    [optimiser]                           torch's; AdamW where absent
    [schedule]         ScheduleSpec
    [run]              RunSpec            epochs, batch, device, precision, seed, early stopping
    [card]             CardSpec           what the model card says beside its figures
    [dicom]                               the tables of the finished dicom.toml (:mod:`models.spec`), but for weights

Components are dictionaries with ``_target_``, as in MONAI bundles; expressions (``$``) are refused here, and
targets outside of MONAI, torch and this project.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.spec import DicomSpec
from models.training.errors import TrainingRefused

Task = Literal["segmentation", "classification", "detection", "autoencoder", "pretraining"]
Component = dict[str, Any]
Positive = Annotated[int, Field(ge=1)]

ALLOWED = ("monai.", "torch.nn.", "torch.optim.", "models.")


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataWords(Table):
    """Where the data come from, for the card."""

    source: str = ""
    licence: str = ""
    classes: tuple[str, ...] = ()


class SplitSpec(Table):
    """Shares of subjects in each part; what adds up to less than one is left out. ``own``: the split that the data
    set states itself (VOC's ImageSets, a column), instead of one made here."""

    train: Annotated[float, Field(gt=0, lt=1)] = 0.6
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.15
    test: Annotated[float, Field(ge=0, lt=1)] = 0.25
    seed: int = 0
    stratify_by: str | None = None
    own: bool = False

    @model_validator(mode="after")
    def _whole(self) -> SplitSpec:
        if self.train + self.validation + self.test > 1 + 1e-9:
            raise ValueError("train, validation and test add up to more than 1")
        return self


class PatchSpec(Table):
    """Training on parts of images: ``size`` voxels an axis, ``per_image`` of them an epoch. The finished model
    slides a window of this size. ``foreground`` is the share of patches that are centred on a structure."""

    size: tuple[Positive, ...]
    per_image: Positive = 1
    foreground: Annotated[float, Field(ge=0, le=1)] = 0.5
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.25


class ScheduleSpec(Table):
    """The learning rate over the training: it rises over the share ``warmup`` of all steps, then stays
    (``constant``) or falls to ``floor`` of its height along a half cosine."""

    kind: Literal["cosine", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    floor: Annotated[float, Field(ge=0, le=1)] = 0.01


class RunSpec(Table):
    """How long and on what.

    ``average`` is the decay a step of the averaged weights, which are what is validated and kept; 0 switches
    averaging off. ``patience`` counts validations without improvement after which the training stops; 0: never.
    ``amp``: ``auto`` takes bfloat16 where the device computes it natively. ``workers`` are processes that augment.
    """

    epochs: Positive
    batch: Positive = 8
    device: str = "auto"
    amp: Literal["auto", "off", "bfloat16", "float16"] = "auto"
    seed: int = 0
    threads: Annotated[int, Field(ge=0)] = 0
    workers: Annotated[int, Field(ge=0)] = 0
    average: Annotated[float, Field(ge=0, lt=1)] = 0.99
    clip: Annotated[float, Field(gt=0)] = 12.0
    validate_every: Positive = 1
    patience: Annotated[int, Field(ge=0)] = 0
    memory: Annotated[float, Field(gt=0)] = 4.0
    pretrained: str | None = None


class CardSpec(Table):
    """Sentences for the model card."""

    title: str = ""
    summary: str = ""
    limits: str = ""


class TrainingConfig(Table):
    """The whole file."""

    task: Task
    data: DataWords = DataWords()
    split: SplitSpec = SplitSpec()
    preprocessing: tuple[Component, ...]
    augmentation: tuple[Component, ...] = ()
    patches: PatchSpec | None = None
    network: Component
    loss: Component | None = None
    optimiser: Component = {"_target_": "torch.optim.AdamW", "lr": 0.001, "weight_decay": 0.0001}
    schedule: ScheduleSpec = ScheduleSpec()
    run: RunSpec
    card: CardSpec = CardSpec()
    postprocessing: tuple[Component, ...] = ()
    dicom: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        parts = {name: getattr(self, name) for name in ("preprocessing", "augmentation", "network", "loss", "optimiser", "postprocessing")}
        problems = [problem for name, part in parts.items() for problem in unsafe(part, name)]
        if problems:
            raise ValueError("; ".join(problems))
        if self.dicom is not None:
            DicomSpec.model_validate(self.dicom)
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides the result: a checkpoint fits this configuration and no other."""
        content = self.model_dump(mode="json", exclude={"card", "dicom", "data"})
        for free in ("device", "threads", "workers", "memory"):
            content["run"].pop(free)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def unsafe(part: Any, where: str) -> Iterator[str]:
    """What a component may not say: expressions, references, and targets from elsewhere."""
    if isinstance(part, Mapping):
        target = part.get("_target_")
        if target is not None and "." in str(target) and not str(target).startswith(ALLOWED):
            yield f"{where}: _target_ '{target}' is not of MONAI, torch.nn, torch.optim or models"
        for key, value in part.items():
            yield from unsafe(value, f"{where}.{key}")
    elif isinstance(part, list | tuple):
        for number, value in enumerate(part):
            yield from unsafe(value, f"{where}[{number}]")
    elif isinstance(part, str) and part.startswith(("$", "@", "%")):
        yield f"{where}: '{part}' is an expression or a reference; a training configuration has none"


def read_config(path: Path) -> TrainingConfig:
    """Read a training's TOML file.

    Raises
    ------
    TrainingRefused
        Listing every problem with its key.
    """
    try:
        return parse_config(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingRefused(f"{path} cannot be read ({type(error).__name__})") from error


def parse_config(text: str, name: str = "the configuration") -> TrainingConfig:
    """The text of a training's TOML file as a TrainingConfig; raises TrainingRefused."""
    try:
        return TrainingConfig.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise TrainingRefused(f"{name} is not valid TOML: {error}") from error
    except ValidationError as error:
        raise TrainingRefused(f"{name}: " + "; ".join(_sentences(error))) from error


def _sentences(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        path = [str(part) for part in problem["loc"]]
        where = ".".join(path) or "the file"
        if problem["type"] == "extra_forbidden":
            table: Any = TrainingConfig
            for part in path[:-1]:
                table = table.model_fields[part].annotation if hasattr(table, "model_fields") and part in table.model_fields else None
            near = get_close_matches(path[-1], list(getattr(table, "model_fields", ())), n=1)
            yield f"unknown key '{where}'" + (f" (did you mean '{near[0]}'?)" if near else "")
        elif problem["type"] == "missing":
            yield f"'{where}' is missing"
        else:
            yield f"'{where}': {problem['msg'].removeprefix('Value error, ')}"


CONFIGS = Path(__file__).parent / "configs"


def shipped(name: str) -> Path:
    """The file of a configuration that comes with this package.

    Raises
    ------
    TrainingRefused
        There is none of that name.
    """
    found = {path.stem: path for path in CONFIGS.glob("*.toml")}
    if name not in found:
        raise TrainingRefused(f"there is no file '{name}', and no configuration of that name ships; these do: {', '.join(sorted(found))}")
    return found[name]
