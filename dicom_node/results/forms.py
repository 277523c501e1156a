"""The forms that findings can take, and which of them a peer's profile asks for.

SEG (as the model has it: BINARY, or FRACTIONAL where it gives probabilities) and SR are the record: they are made of every run. Any other
form says the same for those who cannot show these, and is made only where a peer of the run, or the archive, wants it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

RECORD: Final = ("SEG", "SR")
KINDS: Final[Mapping[str, str]] = {
    "SEG": "Segmentation, BINARY (FRACTIONAL for what carries a probability)",
    "FRACTIONAL": "Segmentation, FRACTIONAL",
    "LABELMAP": "Label Map Segmentation",
    "SR": "Comprehensive 3D SR, TID 1500",
    "KO": "Key Object Selection of the images to look at",
    "SC": "Secondary Capture of the key images, findings drawn in",
    "SC_MULTIFRAME": "Multi-frame True Color Secondary Capture of all images with a finding",
    "PR": "Grayscale Softcopy Presentation State with the outlines",
}
WITH_FRAMES: Final = frozenset({"SEG", "FRACTIONAL", "LABELMAP", "SC_MULTIFRAME"})
"""The kinds that a limit on frames splits."""
SOP_CLASSES: Final[Mapping[str, frozenset[str]]] = {
    "1.2.840.10008.5.1.4.1.1.66.4": frozenset({"SEG", "FRACTIONAL"}),
    "1.2.840.10008.5.1.4.1.1.66.7": frozenset({"LABELMAP"}),
    "1.2.840.10008.5.1.4.1.1.88.34": frozenset({"SR"}),
    "1.2.840.10008.5.1.4.1.1.88.59": frozenset({"KO"}),
    "1.2.840.10008.5.1.4.1.1.7": frozenset({"SC"}),
    "1.2.840.10008.5.1.4.1.1.7.4": frozenset({"SC_MULTIFRAME"}),
    "1.2.840.10008.5.1.4.1.1.11.1": frozenset({"PR"}),
}
_NAMES: Final = {"1.2.840.10008.5.1.4.1.1.66.4": "SEG"}


@dataclass(frozen=True, order=True)
class Form:
    """A kind of result; ``max_frames`` bounds the frames of an object (0: no bound), more are split over several."""

    kind: str
    max_frames: int = 0

    def __str__(self) -> str:
        return f"{self.kind}/{self.max_frames}" if self.max_frames else self.kind


class Profile(Protocol):
    """What a peer says about the results that it takes."""

    @property
    def results(self) -> tuple[str, ...]: ...
    @property
    def max_frames(self) -> int | None: ...


def forms_of(profile: Profile) -> tuple[Form, ...]:
    """The forms that a peer is sent."""
    limit = profile.max_frames or 0
    return tuple(Form(kind, limit if kind in WITH_FRAMES else 0) for kind in dict.fromkeys(profile.results))


def beyond_the_record(profiles: Iterable[Profile], kept: Iterable[str] = ()) -> tuple[Form, ...]:
    """What has to be made beside the record: what peers take, and what the archive keeps."""
    wanted = {form for profile in profiles for form in forms_of(profile)} | {Form(kind) for kind in kept}
    return tuple(sorted(form for form in wanted if str(form) not in RECORD))


def kind_of(sop_class_uid: str) -> str | None:
    """The word for an object of ours, from its SOP class; None for any other."""
    kinds = SOP_CLASSES.get(sop_class_uid)
    return None if kinds is None else _NAMES.get(sop_class_uid) or next(iter(kinds))


def offered_as(sop_class_uid: str, profile: Profile) -> bool:
    """Whether a peer's profile takes results of this SOP class."""
    kinds = SOP_CLASSES.get(sop_class_uid)
    return kinds is None or not kinds.isdisjoint(profile.results)


class Encoded(Protocol):
    """An encoded object, as far as it is chosen for a peer."""

    @property
    def kind(self) -> str: ...
    @property
    def forms(self) -> tuple[str, ...]: ...
    @property
    def sop_class_uid(self) -> str: ...
    @property
    def sop_instance_uid(self) -> str: ...


def chosen_for(profile: Profile, objects: Iterable[Encoded]) -> dict[str, list[str]]:
    """SOP Instance UIDs of the objects that go to a peer, by kind: each is a delivery. What others refer to comes before them.

    The forms that it asks for; and of the record what it takes in no form, so that a delivery tells that this was not offered. An object
    that serves two of them is in the first.
    """
    wanted = {form.kind: str(form) for form in forms_of(profile)}
    chosen: dict[str, list[str]] = {}
    for each in objects:
        serves = next((kind for kind in KINDS if wanted.get(kind) in each.forms), None)
        record = each.kind in RECORD and each.kind in each.forms
        if serves is None and record and not offered_as(each.sop_class_uid, profile):
            serves = each.kind
        if serves is not None:
            chosen.setdefault(serves, []).append(each.sop_instance_uid)
    return {kind: chosen[kind] for kind in KINDS if kind in chosen}
