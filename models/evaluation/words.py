"""The names of figures for people: what each is, in which unit, how it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.evaluation.bootstrap import Figure
from models.evaluation.protocol import slug


@dataclass(frozen=True)
class Word:
    """A figure's name, what it means, its unit, and the decimals to write."""

    name: str
    meaning: str
    unit: str = ""
    decimals: int = 3


def words_of(length: str, size: str) -> dict[str, Word]:
    """By the first part of a metric's name. ``length``: mm or px; ``size``: mL, mm² or px²."""
    return {
        "dice": Word("Dice", "overlap of model and reference, 1 is perfect"),
        "iou": Word("IoU", "shared part of what either has (Jaccard)"),
        "asd": Word("Mean surface distance", "average distance of the two surfaces, both ways", length, 2),
        "hd95": Word("Hausdorff 95", "distance that 95 % of the surface stay below", length, 1),
        "volume_bias": Word("Mean difference of " + ("volume" if size == "mL" else "area"), "model minus reference", size, 2),
        "volume_error": Word(
            "Mean error of " + ("volume" if size == "mL" else "area"), "in percent of the reference, without sign", "%", 1
        ),
        "coverage": Word("Answered", "share of the readable items for which the model gave an answer"),
        "accuracy": Word("Accuracy", "share of items decided rightly"),
        "balanced_accuracy": Word("Balanced accuracy", "mean over the classes of the share decided rightly"),
        "sensitivity": Word("Sensitivity", "share of the positive that were found (recall)"),
        "specificity": Word("Specificity", "share of the negative that were left alone"),
        "precision": Word("Precision", "share of those called positive that are (depends on how frequent they are here)"),
        "f1": Word("F1", "harmonic mean of precision and sensitivity"),
        "roc_auc": Word("ROC AUC", "chance that a positive item scores above a negative one, 0.5 is guessing"),
        "pr_auc": Word("PR AUC", "average precision; guessing gives the share of positive items"),
        "brier": Word("Brier score", "mean squared distance of score and truth, 0 is perfect"),
        "ece": Word("Calibration error", "average distance of score and frequency in ten bins (ECE)"),
        "map50": Word("mAP at IoU 0.5", "mean over classes of average precision (COCO, 101 recalls)"),
        "map50_95": Word("mAP at IoU 0.5 to 0.95", "the same over ten IoU thresholds (COCO)"),
        "ap50": Word("AP at IoU 0.5", "average precision (COCO, 101 recalls)"),
        "ap50_95": Word("AP at IoU 0.5 to 0.95", "average precision over ten IoU thresholds"),
        "froc": Word("FROC", "mean share found at 1/8 to 8 false alarms an image"),
        "sensitivity50": Word("Found", "share of the marked boxes that were found at the threshold, IoU 0.5"),
        "precision50": Word("Right", "share of the boxes found at the threshold that are marked, IoU 0.5"),
    }


def of_what(metric: str, classes: Sequence[str]) -> tuple[str, str]:
    """A metric's figure and whose it is: ``dice.left_lung`` is ``dice`` of ``Left lung``."""
    key, _, rest = metric.partition(".")
    named = {slug(name): name for name in classes}
    special = {
        "mean": "all, averaged an item",
        "macro": "all, averaged",
        "voc": "area below the curve (VOC)",
        "": "all" if len(classes) > 1 else "",
    }
    return key, named.get(rest, special.get(rest, rest))


def number(value: float | None, decimals: int) -> str:
    """A number for people."""
    if value is None:
        return "not defined"
    return f"{value:.{decimals if abs(value) < 1000 else 0}f}"


def interval(figure: Figure, decimals: int) -> str:
    """An interval for people."""
    if figure.low is None or figure.high is None:
        return "none"
    return f"{number(figure.low, decimals)} to {number(figure.high, decimals)}"
