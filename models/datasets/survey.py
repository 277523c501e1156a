"""One look at every image: what describing, cleaning and the fingerprint need, so that nothing is read twice.

A survey with a journal (JSON lines) writes each look as it is taken. An interrupted survey goes on where it
stopped; an image whose files have changed since is looked at again.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from models.datasets.icon import SIDE, Grey, as_grey, perceptual_hash, planes, resized
from models.datasets.loading import ItemUnreadable, Sample, load
from models.datasets.protocol import Item, Skipped
from models.datasets.statistics import WORDS, image_numbers

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Look:
    """What was seen of one item.

    Parameters
    ----------
    stamp
        Sizes and times of its files when it was looked at.
    image_digest, mask_digest
        SHA-256 of the files' bytes.
    pixels
        SHA-256 of the decoded values and their shape: the same picture in another lossless file has the same.
    problem
        Why it cannot be read.
    voxels, volumes
        Of the mask: by label value, in pixels and in ml (in pixels again where no size is known).
    icons
        32x32 pictures, base64: one of a 2-D image, three planes of a volume.
    orientation
        Of a volume: where x, y and z point to, as in ``LPS``.
    """

    id: str
    stamp: str = ""
    image_digest: str = ""
    mask_digest: str = ""
    pixels: str = ""
    problem: Skipped | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    voxels: Mapping[str, int] = field(default_factory=dict)
    volumes: Mapping[str, float] = field(default_factory=dict)
    icons: tuple[str, ...] = ()
    phash: int = 0
    orientation: str = ""
    other_grid: bool = False

    def pictures(self) -> list[Grey]:
        """The icons as arrays (row, column)."""
        return [np.frombuffer(base64.b64decode(each), np.uint8).reshape(SIDE, SIDE) for each in self.icons]


def survey(
    items: Iterable[Item],
    *,
    classes: int | None = None,
    journal: Path | None = None,
    progress: Progress = lambda done, total: None,
    looks: dict[str, Look] | None = None,
) -> dict[str, Look]:
    """Look at every item; by id.

    Parameters
    ----------
    classes
        Number of labels in masks, where it is known.
    journal
        Where looks are kept while the survey goes on, and found again by the next one.
    looks
        Filled as it goes on, for callers that want what there is when they are interrupted.
    """
    chosen = list(items)
    found: dict[str, Look] = {} if looks is None else looks
    kept = _resumed(journal) if journal is not None else {}
    for number, item in enumerate(chosen, start=1):
        stamp = _stamp(item, classes)
        known = kept.get(item.id)
        look = known if known is not None and known.stamp == stamp else dataclasses.replace(look_at(item, classes), stamp=stamp)
        if look is not known and journal is not None:
            _append(journal, look)
        found[item.id] = look
        progress(number, len(chosen))
    return found


def look_at(item: Item, classes: int | None = None) -> Look:
    """Look at one item; what cannot be read is a look with a problem."""
    try:
        sample = load(item, classes=classes)
        image, mask = _digest(item.image), _digest((item.mask,)) if item.mask else ""
        return _seen(item, sample, image, mask)
    except ItemUnreadable as error:
        return Look(item.id, problem=Skipped(error.where, item.provenance.get("row", item.id), error.reason))


def _seen(item: Item, sample: Sample, image: str, mask: str) -> Look:
    values = sample.image.as_tensor().numpy()
    meta = sample.image.meta
    flat = values.ndim == 3
    affine = np.asarray(sample.image.affine, dtype=np.float64)
    spacing = tuple(float(each) for each in np.linalg.norm(affine[:3, : 2 if flat else 3], axis=0))
    known = not flat or bool(meta.get("spacing_known", False))
    numbers = image_numbers(values, spacing if known else None)
    if "age" in meta:
        numbers["age"] = float(meta["age"])
    inverted = meta.get("photometric_interpretation") == "MONOCHROME1"
    low, high = numbers["intensity.p01"], numbers["intensity.p99"]
    icons = [resized(as_grey(each, low, high, inverted=inverted), SIDE, SIDE) for each in planes(values)]
    voxels = _voxels(sample)
    size = float(abs(np.linalg.det(affine[:3, :3]))) / 1000.0 if not flat else (spacing[0] * spacing[1] if known else 1.0)
    return Look(
        item.id,
        image_digest=image,
        mask_digest=mask,
        pixels=hashlib.sha256(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes()).hexdigest(),
        numbers=numbers,
        words={name: str(meta[name]) for name in WORDS if meta.get(name)},
        voxels=voxels,
        volumes={label: count * size for label, count in voxels.items()},
        icons=tuple(base64.b64encode(each.tobytes()).decode() for each in icons),
        phash=perceptual_hash(icons[0]),
        orientation="" if flat else orientation(affine),
        other_grid=bool(sample.mask is not None and sample.mask.meta.get("other_grid", False)),
    )


def orientation(affine: np.ndarray[Any, Any]) -> str:
    """Where x, y and z of a volume point to in the patient: three of L R P A S I."""
    letters = []
    for axis in range(3):
        direction = affine[:3, axis]
        largest = int(np.abs(direction).argmax())
        letters.append(("RL", "AP", "SI")[largest][0 if direction[largest] > 0 else 1])
    return "".join(letters)


def _voxels(sample: Sample) -> dict[str, int]:
    if sample.mask is None:
        return {}
    counts = np.bincount(sample.mask.as_tensor().numpy().ravel())
    return {str(label): int(count) for label, count in enumerate(counts) if label and count}


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _stamp(item: Item, classes: int | None) -> str:
    parts = [f"classes {classes}"]
    for path in (*item.image, *([item.mask] if item.mask else [])):
        try:
            known = path.stat()
            parts.append(f"{path}:{known.st_size}:{known.st_mtime_ns}")
        except OSError:
            parts.append(f"{path}:-")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def read_journal(journal: Path) -> dict[str, Look]:
    """Looks of an earlier survey; a torn last line is passed over."""
    looks: dict[str, Look] = {}
    try:
        lines = journal.read_text(encoding="utf-8").splitlines()
    except OSError:
        return looks
    for line in lines:
        try:
            content = json.loads(line)
            problem = content.pop("problem")
            look = Look(**{**content, "icons": tuple(content["icons"]), "problem": Skipped(**problem) if problem else None})
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        looks[look.id] = look
    return looks


def _resumed(journal: Path) -> dict[str, Look]:
    """Looks of an earlier survey; its torn last line, if any, is ended, so that the next look has a line of its own."""
    looks = read_journal(journal)
    if journal.is_file() and not journal.read_bytes().endswith(b"\n"):
        with journal.open("ab") as file:
            file.write(b"\n")
    return looks


def _append(journal: Path, look: Look) -> None:
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(look), ensure_ascii=False) + "\n")
