"""The process of a scheduled evaluation: ``python -m dicom_node.releases.evaluating``, with its task on standard input.

Its last line on standard error says what went wrong; what a model prints goes nowhere else.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_node import log
from dicom_node.config import Config, ScheduledEvaluation
from dicom_node.errors import NodeError
from dicom_node.work.parent import die_with_parent
from models.errors import BundleInvalid, ModelError
from storage.errors import StorageError

if TYPE_CHECKING:
    from models.datasets.collection import Collection

ARCHIVE = "archive:"


def main() -> int:
    parent = os.getppid()
    die_with_parent()
    if os.getppid() != parent:
        return 1
    os.nice(10)  # it has time; runs that count have not
    log.configure("error", role="evaluation")
    config, entry, root, digest, target = pickle.load(sys.stdin.buffer)
    try:
        with tempfile.TemporaryDirectory(prefix="dicom-node-data-") as folder:
            evaluate(config, entry, root, digest, target, Path(folder))
    except (NodeError, ModelError, StorageError) as error:
        sys.stderr.write(f"\n{' '.join(str(error).split())}\n")
        return 1
    except Exception as error:  # noqa: BLE001  a bundle is foreign code and raises anything; its text may quote a data set
        sys.stderr.write(f"\n{type(error).__name__}\n")
        return 1
    return 0


def evaluate(config: Config, entry: ScheduledEvaluation, root: Path, digest: str, target: Path, folder: Path) -> None:
    """Evaluate a bundle, and write the report."""
    from models.bundle import load_bundle

    bundle = load_bundle(root)
    if bundle.digest != digest:
        raise BundleInvalid(f"bundle {bundle.name} has changed: its digest is not the recorded one")
    dataset = _dataset(config, entry.data, folder)

    import torch

    from models.datasets.splits import read_split
    from models.evaluation.evaluate import Options
    from models.evaluation.evaluate import evaluate as evaluated
    from models.evaluation.report import write_json

    if config.executor.threads is not None:
        torch.set_num_threads(config.executor.threads)
    splits = read_split(entry.splits, dataset).parts if entry.splits is not None else None
    options = Options(device=entry.device, cache=config.node.weights, worst=0)
    write_json(evaluated(bundle, dataset, splits, entry.split, options=options), target)


def _dataset(config: Config, word: str, folder: Path) -> Collection:
    from models.datasets.source import open_dataset

    if not word.startswith(ARCHIVE):
        return open_dataset(word)
    from dicom_node.datasets.archive import collected, parse_question
    from dicom_node.node import open_node

    question = parse_question(word.removeprefix(ARCHIVE).lstrip("?"))
    with open_node(config, "evaluation") as node:
        return collected(node.archive, question, folder)


if __name__ == "__main__":
    sys.exit(main())
