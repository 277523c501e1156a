"""A bundle is read without being run, its keys are checked by name, its digest follows its content."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from models.bundle import SHIPPED, Bundle, list_bundles, load_bundle, validate_bundle
from models.errors import BundleInvalid
from models.spec import parse_spec, segment_numbers

WEIGHTS = b"weights"
SHA = "9ca3cf9c8f30e0e7a1f30d6a3f1fc8d6ed6d5fcd1e5b3d8f4c5f9c9d0e1f2a3b"

TOML = """
[model]
name = "demo"
version = "1.0"
manufacturer = "Tests"
intended_use = "Tests"
licence = "MIT"

[[segment]]
label = "Organ"
category = { value = "123037004", scheme = "SCT", meaning = "Anatomical Structure" }
type = { value = "12738006", scheme = "SCT", meaning = "Brain" }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "demo"
    (root / "configs").mkdir(parents=True)
    keys = ("preprocessing", "network_def", "inferer", "postprocessing")
    (root / "configs" / "inference.json").write_text(json.dumps({key: {"_target_": "Compose"} for key in keys}))
    metadata = {"version": "1.0", "monai_version": "1.6.1", "network_data_format": {}}
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (root / "dicom.toml").write_text(TOML)
    return root


def invalid(text: str) -> str:
    with pytest.raises(BundleInvalid) as raised:
        parse_spec(text)
    return str(raised.value)


def test_the_shipped_bundle_is_sound() -> None:
    bundle = load_bundle("brain_extraction")
    assert bundle.root == SHIPPED / "brain_extraction"
    assert validate_bundle(bundle) == []
    assert segment_numbers(bundle.dicom) == {"Brain": 1}
    assert [weight.package for weight in bundle.dicom.weights] == ["deepbet", "deepbet"]


def test_shipped_bundles_are_sound_and_carry_card_and_licence() -> None:
    for bundle in list_bundles():
        assert validate_bundle(bundle) == [], bundle.name
        assert (bundle.root / "README.md").is_file(), bundle.name
        assert (bundle.root / "LICENSE").is_file(), bundle.name


def test_a_bundle_is_found_by_name_and_by_directory(folder: Path) -> None:
    assert load_bundle(folder).name == "demo"
    assert load_bundle("demo", [folder.parent]).root == folder.resolve()
    assert {"demo", "brain_extraction", "mr_motion"} <= {bundle.name for bundle in list_bundles([folder.parent])}


def test_an_unknown_name_lists_the_known_ones(folder: Path) -> None:
    with pytest.raises(BundleInvalid, match=r"no bundle 'dmeo'; known: brain_extraction, .*demo"):
        load_bundle("dmeo", [folder.parent])


@pytest.mark.parametrize("path", ["dicom.toml", "configs/inference.json", "configs/metadata.json"])
def test_a_missing_file_is_named(folder: Path, path: str) -> None:
    (folder / path).unlink()
    with pytest.raises(BundleInvalid, match=Path(path).name):
        load_bundle(folder)


@pytest.mark.parametrize("content", ["{", "[1]", "\udcff"])
def test_broken_json_is_named(folder: Path, content: str) -> None:
    (folder / "configs" / "inference.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(BundleInvalid, match=r"inference\.json"):
        load_bundle(folder)


def test_unknown_keys_are_refused_with_the_nearest_one() -> None:
    assert "unknown key 'model.licens' (did you mean 'licence'?)" in invalid(TOML.replace("licence", "licens"))
    assert "unknown key 'segments' (did you mean 'segment'?)" in invalid(TOML.replace("[[segment]]", "[[segments]]"))
    assert "unknown key 'segment.0.colour' (did you mean 'color'?)" in invalid(TOML + "colour = [1, 2, 3]\n")
    assert "unknown key 'segment.0.type.scheme_name' (did you mean 'scheme'?)" in invalid(
        TOML.replace('meaning = "Brain"', 'meaning = "Brain", scheme_name = "x"')
    )


def test_all_problems_are_told_at_once() -> None:
    told = invalid(TOML.replace('version = "1.0"', "versoin = 1"))
    assert "'model.version' is missing" in told
    assert "unknown key 'model.versoin' (did you mean 'version'?)" in told


@pytest.mark.parametrize(
    ("addition", "told"),
    [
        ('[[measurement]]\nquantity = "volume"\nsegment = "Liver"\n', "names the segment 'Liver'"),
        ('[[measurement]]\nquantity = "weight"\nsegment = "Organ"\n', "measurement.0.quantity"),
        (f'[[weights]]\nfile = "../x.pt"\nsha256 = "{SHA}"\n', "inside the bundle"),
        (f'[[weights]]\nfile = "/x.pt"\nsha256 = "{SHA}"\n', "inside the bundle"),
        ('[[weights]]\nfile = "x.pt"\nsha256 = "abc"\n', "weights.0.sha256"),
        (f'[[weights]]\nfile = "x.pt"\nsha256 = "{SHA}"\npackage = "p"\n', "belong together"),
        (f'[[weights]]\nfile = "x.pt"\nsha256 = "{SHA}"\npackage = "-rfile"\nversion = "1"\nmember = "m"\n', "weights.0.package"),
        ("[output]\nform = 'scores'\n", "classifications need"),
        ("[geometry]\nmin_slices = 0\n", "geometry.min_slices"),
        ("[[[", "not valid TOML"),
    ],
)
def test_contradictions_are_refused(addition: str, told: str) -> None:
    assert told in invalid(TOML + addition)


def test_a_spec_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_spec(TOML).model.name = "other"  # type: ignore[misc]


def test_the_digest_does_not_know_its_place(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("documentation is no part of it")
    (copy / "scripts" / "__pycache__").mkdir(parents=True)
    (copy / "scripts" / "__pycache__" / "x.pyc").write_bytes(b"nor are caches")
    assert load_bundle(copy).digest == load_bundle(folder).digest


@pytest.mark.parametrize("path", ["dicom.toml", "configs/inference.json", "configs/metadata.json"])
def test_the_digest_follows_every_config(folder: Path, path: str) -> None:
    before = load_bundle(folder).digest
    with (folder / path).open("a") as stream:
        stream.write("\n")
    assert load_bundle(folder).digest != before


def test_the_digest_follows_scripts_and_pinned_weights(folder: Path) -> None:
    digests = {load_bundle(folder).digest}
    (folder / "scripts").mkdir()
    (folder / "scripts" / "net.py").write_text("x = 1\n")
    digests.add(load_bundle(folder).digest)
    (folder / "dicom.toml").write_text(TOML + f'[[weights]]\nfile = "models/a.pt"\nsha256 = "{SHA}"\n')
    digests.add(load_bundle(folder).digest)
    assert len(digests) == 3


def problems(bundle: Bundle) -> str:
    return "\n".join(str(problem) for problem in validate_bundle(bundle))


def test_validation_names_what_is_missing(folder: Path) -> None:
    (folder / "configs" / "inference.json").write_text('{"inferer": {}}')
    (folder / "configs" / "metadata.json").write_text('{"version": "2.0"}')
    told = problems(load_bundle(folder))
    assert "has no 'preprocessing'" in told
    assert "has no 'network_def'" in told
    assert "has no 'monai_version'" in told
    assert "model.version is 1.0, metadata.json says 2.0" in told


def test_validation_prints_the_pin_that_is_missing(folder: Path) -> None:
    (folder / "models").mkdir()
    (folder / "models" / "model.pt").write_bytes(WEIGHTS)
    told = problems(load_bundle(folder))
    assert 'add [[weights]] file = "models/model.pt", sha256 = "' in told


def test_validation_sees_changed_and_missing_weights(folder: Path) -> None:
    (folder / "models").mkdir()
    (folder / "models" / "model.pt").write_bytes(WEIGHTS)
    pins = f'[[weights]]\nfile = "models/model.pt"\nsha256 = "{SHA}"\n[[weights]]\nfile = "models/other.pt"\nsha256 = "{SHA}"\n'
    (folder / "dicom.toml").write_text(TOML + pins)
    told = problems(load_bundle(folder))
    assert "models/model.pt: is not the file" in told
    assert "models/other.pt: is pinned in dicom.toml and missing" in told
