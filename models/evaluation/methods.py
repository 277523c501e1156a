"""How the figures are defined, in sentences for the report."""

from __future__ import annotations

from models.evaluation.evaluate import Report

_SEGMENTATION = (
    "Every figure is the mean over items, on the grid of the source images. Surface distances are between the outer voxels of model "
    "and reference, with the spacing of the images, both ways (MONAI); they need the structure in both.",
    "Where neither has the structure, overlap is not defined and the item is not part of the mean; where only one has it, Dice is 0.",
)
_CLASSIFICATION = (
    "Decisions, ROC, precision-recall and the Brier score are scikit-learn's; the calibration error has ten bins of equal width. An item "
    "without an answer, or with a score that is no number, counts as decided wrongly. An item of which nobody stated a label is "
    "left out for that label.",
)
_DETECTION = (
    "Boxes are matched in COCO's manner (MONAI): best score first, each to the free marked box with the largest overlap, at most 100 "
    "of a class in an image. Boxes marked difficult are neither asked for nor counted. A class that occurs in no item is not part "
    "of a mean.",
)


def definitions(report: Report) -> list[str]:
    """The paragraphs."""
    task = {"segmentation": _SEGMENTATION, "classification": _CLASSIFICATION, "detection": _DETECTION}.get(report.measured.task, ())
    return [
        "The items went through the same preprocessing, networks and postprocessing that the node serves with.",
        *task,
        f"Intervals: subjects were drawn with replacement {report.replicates} times (percentile bootstrap, seed {report.seed}); "
        "all items of a subject go together. An interval says how the figure would vary among people like these; it says nothing of "
        "other hospitals.",
    ]
