"""The documentation tells the truth: what it names exists, and what exists is named."""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from dicom_node.cli.main import build_parser
from dicom_node.config import Config
from dicom_node.web import metrics

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(parser: argparse.ArgumentParser, path: str = "dicom-node") -> Iterator[str]:
    """Every command of the program, leaves only."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield path
    for group in groups:
        for name, below in group.choices.items():
            yield from commands(below, f"{path} {name}")


def test_the_readme_names_every_command_and_no_other() -> None:
    existing = set(commands(build_parser()))
    named = {" ".join(match.split()) for match in re.findall(r"dicom-node(?: [a-z]+)+", README)}
    assert existing <= named
    assert {name for name in named if not any(each == name or each.startswith(name + " ") for each in existing)} == set()


def test_the_readme_names_every_metric_and_no_other() -> None:
    source = Path(metrics.__file__).read_text(encoding="utf-8")
    existing = set(re.findall(r"dicom_node_[a-z_]+", source))
    assert set(re.findall(r"`(dicom_node_[a-z_]+)`", README)) == existing


def test_every_setting_in_the_readme_is_one() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", README, flags=re.S)
    assert blocks
    for block in blocks:
        Config.model_validate(tomllib.loads(block))


def test_the_template_names_every_setting() -> None:
    template = (ROOT / "dicom_node/cli/template.toml").read_text(encoding="utf-8")
    Config.model_validate(tomllib.loads(template))
    for name, field in Config.model_fields.items():
        assert f"[{name}]" in template or f"[[{name}]]" in template, name
        for key in getattr(field.annotation, "model_fields", {}):
            assert re.search(rf"^(?:# )?\[?{key}\b|^# \[{name}\.{key}\]", template, flags=re.M), f"{name}.{key}"


def test_make_has_every_target_that_the_readme_names() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`?make ([a-z]+)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target
