"""Features of data sets as tables: rows, resuming, refusals, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_node.cli.main import main
from models.datasets.protocol import Item, Skipped, Task
from models.features.extract import Extraction, extract
from models.features.table import FeatureTableFailed, feature_names, feature_table, read_features
from models.preprocess import Preprocessing

FEW = Extraction(("intensity", "shape"))


@dataclass(frozen=True)
class Data:
    items: tuple[Item, ...]
    name: str = "pictures"
    task: Task = "segmentation"
    classes: tuple[str, ...] = ("disc", "dot")
    skipped: Sequence[Skipped] = field(default=())

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)


def picture(folder: Path, number: int, labels: tuple[int, ...] = (1, 2)) -> Item:
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(number).integers(0, 255, (24, 30)).astype(np.uint8)
    mask = np.zeros((24, 30), np.uint8)
    for label in labels:
        mask[4 * label : 4 * label + 4, 5:15] = label
    image_file, mask_file = folder / f"{number}.png", folder / f"{number}-mask.png"
    Image.fromarray(values).save(image_file)
    Image.fromarray(mask).save(mask_file)
    attributes: dict[str, str | float] = {"sex": "F", "age": 40 + number}
    return Item(str(number), f"s{number}", (image_file,), mask_file, labels={"ill": number % 2}, attributes=attributes)


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tuple(picture(tmp_path / "data", number) for number in range(4)))


def test_a_row_a_structure_with_the_features_of_its_region(data: Data, tmp_path: Path) -> None:
    made = feature_table(data, tmp_path / "f.parquet", FEW, processes=1)
    table = read_features(made.path)
    assert made.rows == table.num_rows == 8
    assert table.column_names[:6] == ["id", "subject", "structure", "attribute.sex", "attribute.age", "label.ill"]
    assert feature_names(table.column_names) == made.features
    row = table.to_pylist()[1]
    assert (row["id"], row["subject"], row["structure"], row["label.ill"]) == ("0", "s0", "dot", 0.0)
    image = np.asarray(Image.open(data.items[0].image[0])).T[None].astype(np.float32)
    mask = np.asarray(Image.open(data.items[0].mask)).T == 2 if data.items[0].mask else None
    expected = extract(image, mask, [1.0, 1.0], FEW)
    assert {name: row[name] for name in made.features} == expected
    assert json.loads(table.schema.metadata[b"dicom_node"])["data"] == "pictures"


def test_csv_and_parquet_say_the_same(data: Data, tmp_path: Path) -> None:
    made = feature_table(data, tmp_path / "f.parquet", FEW, processes=1)
    one, other = read_features(made.path).to_pylist(), read_features(made.csv).to_pylist()
    assert [row["structure"] for row in one] == [row["structure"] for row in other]
    for name in made.features:
        assert [row[name] for row in one] == pytest.approx([row[name] for row in other], rel=1e-12)


def test_processes_change_nothing_but_the_time(data: Data, tmp_path: Path) -> None:
    alone = feature_table(data, tmp_path / "a.parquet", FEW, processes=1)
    together = feature_table(data, tmp_path / "b.parquet", FEW, processes=2)
    assert read_features(alone.path).equals(read_features(together.path))


def test_an_interrupted_run_goes_on_and_a_torn_line_does_not_count(data: Data, tmp_path: Path) -> None:
    out = tmp_path / "f.parquet"

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        feature_table(data, out, FEW, processes=1, progress=stop)
    assert not out.exists()
    partial = tmp_path / "f.parquet.partial"
    with partial.open("ab") as lines:
        lines.write(b'{"key": "torn')
    made = feature_table(data, out, FEW, processes=1)
    assert (made.resumed, made.rows) == (2, 8)
    assert not partial.exists()
    fresh = feature_table(data, tmp_path / "g.parquet", FEW, processes=1)
    assert fresh.resumed == 0
    assert read_features(fresh.path).equals(read_features(out))


def test_what_was_kept_does_not_count_for_other_settings_or_changed_files(data: Data, tmp_path: Path) -> None:
    out = tmp_path / "f.parquet"
    finished: list[int] = []

    def stop(done: int, _: int) -> None:
        finished.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        feature_table(data, out, FEW, processes=1, progress=stop)
    kept = (tmp_path / "f.parquet.partial").read_bytes()
    assert feature_table(data, out, Extraction(("intensity",)), processes=1).resumed == 0
    (tmp_path / "f.parquet.partial").write_bytes(kept)
    picture(tmp_path / "data", 0, labels=(1,))
    assert feature_table(data, out, FEW, processes=1).resumed == 0


def test_what_cannot_be_used_is_listed_with_the_reason_and_the_rest_goes_on(data: Data, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    other = tmp_path / "other.png"
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(other)
    first = data.items[0]
    items = (
        first,
        Item("broken", "s8", (broken,)),
        Item("size", "s9", first.image, other),
        picture(tmp_path / "more", 7, labels=(1,)),
        Item("gone", "s10", (tmp_path / "gone.png",)),
    )
    made = feature_table(Data(items), tmp_path / "f.parquet", FEW, processes=1)
    assert made.rows == 3
    reasons = {each.row: each.reason for each in made.skipped}
    assert set(reasons) == {"broken", "size", "7, dot", "gone"}
    assert "another size" in reasons["size"]
    assert "empty" in reasons["7, dot"]


def test_nothing_usable_is_refused_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(FeatureTableFailed, match="no such file"):
        feature_table(Data((Item("gone", "s", (tmp_path / "gone.png",)),)), tmp_path / "f.parquet", processes=1)


def test_images_go_through_a_bundles_graph_first(data: Data, tmp_path: Path) -> None:
    graph = Preprocessing.from_config([{"_target_": "ScaleIntensityd", "keys": "image"}])
    made = feature_table(data, tmp_path / "f.parquet", Extraction(("intensity",)), preprocessing=graph, processes=1)
    highest = read_features(made.path).column("intensity.maximum").to_pylist()
    assert 0 < min(highest) <= max(highest) <= 1


def test_the_command_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        picture(tmp_path / "data", number).mask.unlink()  # type: ignore[union-attr]
    out = tmp_path / "made" / "f.parquet"
    spec = f"images:{tmp_path / 'data'}"
    assert main(["model", "features", "--data", spec, "--out", str(out), "--classes", "glcm,edge", "--processes", "1"]) == 0
    assert "3 rows of 39 features" in capsys.readouterr().out
    assert read_features(out).num_rows == read_features(out.with_suffix(".csv")).num_rows == 3
    assert main(["model", "features", "--data", spec, "--out", str(out), "--classes", "colours"]) == 2
    assert "'colours'" in capsys.readouterr().err
    assert main(["model", "features", "--data", spec, "--out", str(tmp_path / "f.txt")]) == 2
