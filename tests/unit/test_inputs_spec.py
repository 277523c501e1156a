"""What of several inputs, chains and earlier studies cannot be is refused when dicom.toml is read."""

from __future__ import annotations

import pytest

from models.errors import BundleInvalid
from models.spec import parse_spec
from tests.several_inputs import DICOM

TEXT = DICOM.format(more="", threshold=0.5)
FLAIR = 'name = "flair"\nany = [{ SeriesDescription = "*FLAIR*" }]'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TEXT + "[series]\nmin_instances = 2\n", "exclude each other"),
        (TEXT.replace('name = "flair"', 'name = "t1"'), "two inputs have the same name"),
        (TEXT.replace("min_instances = 3", "optional = true"), "first input is a series and cannot be optional"),
        (TEXT.replace(FLAIR, 'name = "flair"\nsegments_of = "pair"'), "would wait for itself"),
        (TEXT.replace(FLAIR, f'{FLAIR}\nsegments_of = "other"'), "no condition on series"),
        (TEXT.replace(FLAIR, f'{FLAIR}\nsegment = "Brain"'), "segment goes with segments_of"),
        (TEXT.replace(FLAIR, f"{FLAIR}\nprior = true"), "belong together"),
        (TEXT + "[prior]\nmax_age = 10\n", "belong together"),
        (TEXT + "[geometry]\ndimensions = 2\n", "several inputs are volumes"),
        (TEXT.replace(FLAIR, f"{FLAIR}\ngrid = {{ min_overlapp = 0.5 }}"), "did you mean 'min_overlap'"),
    ],
)
def test_it_is_refused(text: str, said: str) -> None:
    with pytest.raises(BundleInvalid, match=said):
        parse_spec(text)


def test_one_series_is_one_input() -> None:
    spec = parse_spec(TEXT)
    assert [each.name for each in spec.inputs] == ["t1", "flair"]
    alone = parse_spec(TEXT[: TEXT.index("[[input]]")] + '[series]\nmatch = { Modality = "MR" }\n' + TEXT[TEXT.index("[output]") :])
    assert [(each.name, each.match) for each in alone.inputs] == [("image", {"Modality": "MR"})]
