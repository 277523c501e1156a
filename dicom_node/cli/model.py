"""``model fetch | list | show | validate | run``; the others have modules of their own."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.cli import model_evaluate, model_features, model_preview, model_train, output
from dicom_node.cli.common import command, group, with_json
from dicom_node.cli.model_memory import memory_of, told_memory
from dicom_node.config import Config, find_file, load
from dicom_node.errors import EXIT_FAILED, EXIT_OK, CommandFailed

if TYPE_CHECKING:
    from models.bundle import Bundle


def add(commands: Any) -> None:
    models = group(commands, "model", "models: fetch weights, list, show, validate, run on a folder")
    fetch = command(
        models, "fetch", "fetch the pinned weights of models and verify them", example="dicom-node model fetch brain_extraction"
    )
    fetch.add_argument("names", nargs="*", metavar="NAME", help="bundles (default: all that the rules name, else all)")
    fetch.set_defaults(run=_fetch)
    listing = command(models, "list", "list the models that are known here")
    with_json(listing)
    listing.set_defaults(run=_list)
    show = command(models, "show", "show a model: identity, what series it needs, what it writes")
    show.add_argument("name", metavar="BUNDLE", help="name or folder")
    with_json(show)
    show.set_defaults(run=_show)
    validate = command(models, "validate", "read a bundle without running it, and name every problem")
    validate.add_argument("name", metavar="BUNDLE", help="name or folder")
    validate.set_defaults(run=_validate)
    run = command(
        models,
        "run",
        "run a model on a folder of DICOM files, without any server",
        description="Choose the series that the model needs among the files, run the model, and write SEG and SR.",
        example="dicom-node model run brain_extraction ./study --out ./results",
    )
    run.add_argument("name", metavar="BUNDLE", help="name or folder")
    run.add_argument("folder", type=Path, metavar="DIR")
    run.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where SEG and SR go (default: here)")
    run.add_argument("--device", default="cpu", help="cpu or cuda:N")
    with_json(run)
    run.set_defaults(run=_run)
    model_train.add(models)
    model_evaluate.add(models)
    model_features.add(models)
    model_preview.add(models)


def _configuration(arguments: argparse.Namespace) -> Config:
    """The configuration where there is one; these commands work without."""
    file = find_file(arguments.config)
    return load(file) if arguments.config or file.exists() else Config()


def _bundle(arguments: argparse.Namespace) -> tuple[Config, Bundle]:
    from models.bundle import load_bundle

    config = _configuration(arguments)
    return config, load_bundle(arguments.name, config.node.bundles)


def _fetch(arguments: argparse.Namespace) -> None:
    from models.bundle import list_bundles, load_bundle
    from models.weights import fetch_weights

    config = _configuration(arguments)
    named = arguments.names or list(dict.fromkeys(name for rule in config.rule for name in rule.run))
    bundles = [load_bundle(name, config.node.bundles) for name in named] or list_bundles(config.node.bundles)
    for bundle in bundles:
        paths = fetch_weights(bundle, config.node.weights, progress=output.note)
        output.line(f"{bundle.name} {bundle.version}: {len(paths)} weight files, verified")


def _list(arguments: argparse.Namespace) -> None:
    from models.bundle import list_bundles
    from models.weights import missing_weights

    config = _configuration(arguments)
    found = [
        {
            "name": bundle.name,
            "version": bundle.version,
            "digest": bundle.digest,
            "weights": "to be fetched" if missing_weights(bundle, config.node.weights) else "here",
            "licence": bundle.dicom.model.licence,
            "folder": str(bundle.root),
        }
        for bundle in list_bundles(config.node.bundles)
    ]
    if arguments.json:
        output.data(found)
        return
    rows = [(each["name"], each["version"], each["digest"][:12], each["weights"], each["licence"], each["folder"]) for each in found]
    output.table(("model", "version", "release digest", "weights", "licence", "folder"), rows)


def _show(arguments: argparse.Namespace) -> None:
    config, bundle = _bundle(arguments)
    spec = bundle.dicom
    memory = memory_of(config, bundle.digest)
    if arguments.json:
        about = {"name": bundle.name, "version": bundle.version, "digest": bundle.digest}
        output.data({**about, "dicom": spec.model_dump(mode="json"), "memory": memory})
        return
    output.line(f"{bundle.name} {bundle.version}, by {spec.model.manufacturer}")
    output.line(f"  {spec.model.intended_use}")
    output.line(f"  licence {spec.model.licence}, release digest {bundle.digest}")
    output.line(f"  in {bundle.root}")
    output.line("series it needs")
    for name in ("match", "any", "exclude", "prefer", "ranges", "min_instances"):
        value = getattr(spec.series, name)
        if value:
            output.line(f"  {name}: {output.plain(value)}")
    output.line("writes " + ", ".join(spec.output.kinds))
    for segment in spec.segment:
        output.line(f"  segment {segment.label}: {segment.type.meaning} ({segment.type.value}, {segment.type.scheme})")
    for measurement in spec.measurement:
        of = f" of {measurement.segment}" if measurement.segment else ""
        output.line(f"  {measurement.name.meaning}{of} in {measurement.unit.value}")
    for classification in spec.classification:
        output.line(f"  {classification.label}: {classification.positive.meaning} or {classification.negative.meaning}")
    for text in told_memory(memory):
        output.line(text)


def _validate(arguments: argparse.Namespace) -> int:
    from models.bundle import validate_bundle

    _, bundle = _bundle(arguments)
    problems = validate_bundle(bundle)
    for problem in problems:
        output.line(str(problem))
    if not problems:
        output.line(f"{bundle.name} {bundle.version} is sound; release digest {bundle.digest}")
    return EXIT_FAILED if problems else EXIT_OK


def _run(arguments: argparse.Namespace) -> None:
    from dicom_node.standalone import run_folder

    config, bundle = _bundle(arguments)
    done = run_folder(bundle, arguments.folder, arguments.out, device=arguments.device, cache=config.node.weights, now=time.time())
    if done.answer.outcome in ("failed", "not_applicable"):
        raise CommandFailed(f"{bundle.name}: {done.answer.reason} [{done.answer.code}]")
    if arguments.json:
        output.data({"findings": done.answer.findings, "timings": done.answer.timings, "files": done.files, "series": done.series_uid})
        return
    for each in done.answer.findings.get("measurements", []):
        output.line(f"{each['of']} {each['name']}: {each['value']:.1f} {each['unit']}".strip())
    for each in done.answer.findings.get("classifications", []):
        output.line(f"{each['label']}: {each['value']}")
    for path in done.files:
        output.line(f"wrote {path}")
