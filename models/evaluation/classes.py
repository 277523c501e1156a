"""Which class of a data set is which structure or label of a bundle: by name; a single one on both sides is the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.bundle import Bundle
from models.datasets.protocol import Task
from models.evaluation.protocol import EvaluationImpossible, slug
from models.spec import DicomSpec


@dataclass(frozen=True)
class Matched:
    """``names``: the bundle's label to the data set's class; ``notes``: what the report must say of it."""

    names: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.names.values())


def match_classes(bundle: Bundle, task: Task, classes: Sequence[str]) -> Matched:
    """Match a bundle's labels with a data set's classes.

    Raises
    ------
    EvaluationImpossible
        The bundle does another task, no class is common to both, or two names differ in letter case or signs only.
    """
    spec = bundle.dicom
    labels = _labels(bundle, task)
    by_slug = {slug(name): name for name in classes}
    if len(by_slug) < len(classes):
        raise EvaluationImpossible(f"two classes of the data have the same name: {', '.join(classes)}")
    names = {label: by_slug[slug(label)] for label in labels if slug(label) in by_slug}
    if not names and len(labels) == 1 and len(classes) == 1:
        names = {labels[0]: classes[0]}
    if not names and len(labels) == len(classes) and task == "segmentation":
        names = _by_value(spec, classes)
    if not names:
        raise EvaluationImpossible(
            f"no class of the data ({', '.join(classes) or 'none'}) is one that the model finds ({', '.join(labels) or 'none'})"
        )
    return Matched(names, tuple(_notes(names, labels, classes)))


def _labels(bundle: Bundle, task: Task) -> list[str]:
    if task == "none":
        raise EvaluationImpossible("the data set has no labels, masks or boxes to compare with")
    if (task == "detection") != (str(bundle.metadata.get("task")) == "detection"):
        raise EvaluationImpossible(f"the data set's task is {task}, and the model is made for something else")
    if task == "classification":
        return [each.label for each in bundle.dicom.classification]
    return [each.label for each in bundle.dicom.segment]


def _by_value(spec: DicomSpec, classes: Sequence[str]) -> dict[str, str]:
    by_value = {each.value: each.label for each in spec.segment}
    if set(by_value) != set(range(1, len(classes) + 1)):
        return {}
    return {by_value[index + 1]: name for index, name in enumerate(classes)}


def _notes(names: Mapping[str, str], labels: Sequence[str], classes: Sequence[str]) -> list[str]:
    notes = [f"The model's '{label}' was compared with the data's '{name}'." for label, name in names.items() if slug(label) != slug(name)]
    unasked = [label for label in labels if label not in names]
    unanswered = [name for name in classes if name not in names.values()]
    if unasked:
        notes.append(f"The data says nothing of what the model also finds: {', '.join(unasked)}.")
    if unanswered:
        notes.append(f"The model does not find, and the evaluation leaves out: {', '.join(unanswered)}.")
    return notes
