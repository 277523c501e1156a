"""What is accepted, and which syntax where several are proposed."""

from __future__ import annotations

import pytest

from dicom_node.dimse.contexts import LABEL_MAP_SEGMENTATION, STORAGE_CLASSES, TRANSFER_SYNTAXES, Negotiator, storage_classes
from dicom_node.dimse.pdu import ProposedContext

CT = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
JPEG_LS, DEFLATED = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.1.99"


def test_every_storage_class_and_private_ones() -> None:
    assert len(STORAGE_CLASSES) > 150
    assert {CT, LABEL_MAP_SEGMENTATION, "1.2.840.10008.5.1.4.1.1.5"} <= STORAGE_CLASSES
    assert storage_classes(["1.2.3.4"]) == STORAGE_CLASSES | {"1.2.3.4"}
    assert len(set(TRANSFER_SYNTAXES)) == len(TRANSFER_SYNTAXES) >= 45


@pytest.mark.parametrize(
    ("proposed", "chosen"),
    [
        ((IMPLICIT, EXPLICIT), EXPLICIT),
        ((BIG, IMPLICIT), IMPLICIT),
        ((JPEG_LS, EXPLICIT), EXPLICIT),
        ((DEFLATED, JPEG_LS), JPEG_LS),
        ((BIG,), BIG),
        (("1.2.3.4.5", JPEG_LS), JPEG_LS),
    ],
)
def test_choice(proposed: tuple[str, ...], chosen: str) -> None:
    (result,) = Negotiator([CT]).answer([ProposedContext(1, CT, proposed)])
    assert (result.result, result.transfer_syntax) == (0, chosen)


def test_private_transfer_syntax_only_where_configured() -> None:
    proposed = [ProposedContext(1, CT, ("1.2.3.4.5",))]
    assert Negotiator([CT]).answer(proposed)[0].result == 4
    assert Negotiator([CT], ["1.2.3.4.5"]).answer(proposed)[0].result == 0
    assert Negotiator([CT]).answer([ProposedContext(1, CT, ())])[0].result == 4
