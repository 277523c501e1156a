"""Judging a model on a data set, through the same path that serves it.

    protocol.py                     what a model answered, and what is kept of each item
    volumes.py answers.py           an item as the volume that the node would hand to the model; the model's answer
    run.py journal.py               predict every item of a split; go on after a kill
    segmentation.py                 Dice, IoU, surface distances, volumes    (MONAI)
    classification.py thresholds.py decisions, ROC, PR, calibration          (scikit-learn)
    detection.py                    mAP, FROC                                (MONAI)
    bootstrap.py                    confidence intervals: subjects drawn again and again
    evaluate.py                     figures, subgroups and gaps of one split; report.py as JSON
    plots.py pictures.py page.py    the report as one HTML file

Needs the extra ``training`` (scikit-learn, matplotlib), which serving does not.
"""
