"""``model preview``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.cli import output
from dicom_node.cli.common import command, with_json
from dicom_node.config import find_file, load
from dicom_node.errors import CommandFailed

if TYPE_CHECKING:
    from PIL.Image import Image

    from models.bundle import Bundle


def add(models: Any) -> None:
    parser = command(
        models,
        "preview",
        "pictures of an image before and after each preprocessing step of a model",
        description="Run the preprocessing of a model step by step on one image (DICOM, NIfTI, PNG, JPEG; of a folder its first picture,\n"
        "else the DICOM series that the model needs) and write a picture a step: before, after, and the difference that a filter makes.\n"
        "The pictures show the image itself: treat them as you treat it. No network runs, no weights are needed.",
        example="dicom-node model preview cxr_lungs --input ./chest.dcm --out ./preview",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="name or folder")
    parser.add_argument("--input", type=Path, required=True, metavar="PATH", help="file or folder")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the pictures go")
    with_json(parser)
    parser.set_defaults(run=_preview)


def _preview(arguments: argparse.Namespace) -> None:
    from models.bundle import load_bundle
    from models.preprocess import Preprocessing
    from models.preview import describe, draw_input, draw_stage, read_input, stages

    file = find_file(arguments.config)
    folders = load(file).node.bundles if arguments.config or file.exists() else ()
    bundle = load_bundle(arguments.bundle, folders)
    graph = Preprocessing.from_bundle(bundle)
    image = read_input(bundle, _files(bundle, arguments.input))
    written = [_save(draw_input(image, bundle.name), arguments.out, "00-input.png")]
    rows = [{"step": "input", "seconds": 0.0, "after": describe(image), "file": written[0]}]
    for stage in stages(graph, image):
        path = _save(draw_stage(stage), arguments.out, stage.file_name)
        rows.append({"step": stage.name, "seconds": round(stage.seconds, 4), "after": describe(stage.after), "file": path})
    if arguments.json:
        output.data({"bundle": bundle.name, "graph": graph.digest, "steps": rows})
        return
    output.table(("step", "seconds", "after it", "picture"), [list(row.values()) for row in rows])


def _files(bundle: Bundle, given: Path) -> list[Path]:
    from dicom_node.standalone import choose_series
    from models.datasets.collection import NIFTI, PICTURES

    if not given.exists():
        raise CommandFailed(f"{given} does not exist")
    if given.is_file():
        return [given]
    others = sorted(path for path in given.rglob("*") if path.name.lower().endswith((*PICTURES, *NIFTI)))
    if others:
        if len(others) > 1:
            output.note(f"{given} has {len(others)} images; {others[0].name} is shown")
        return others[:1]
    return [path for path, _ in choose_series(bundle, given)[1]]


def _save(picture: Image, folder: Path, name: str) -> Path:
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except OSError as error:
        raise CommandFailed(f"{path} cannot be written: {error.strerror or error}") from error
    return path
