"""The node's own sentences on Chinese pages: what routing, completion and delivery really say is translated, the rest left as it is."""

from __future__ import annotations

import pytest

from dicom_node.web.pages.language import language
from dicom_node.web.pages.reasons import spoken
from dicom_node.web.pages.site import _reason

ZH, EN = language("zh"), language("en")
SAID = (
    "no open association is sending it and nothing came for 3 s (quiet period 3 s); 28 instances",
    "no open association is sending it and nothing came for 61 s (quiet period 60 s); 2 of 2 expected instances",
    "required series Modality=MR is there",
    "nothing came for 600 s (max_wait 600 s); the association from CT1 is still open but idle; 1 instance",
    "rule brain, model brain_alert: none of 1 series fits; rule chest, model cxr_lungs: none of 1 series fits",
    "rule: Modality is 'CT', not 'MR'",
    "rule: Modality is 'CT', not ('CR', 'DX')",
    "model: SliceThickness is 5, outside 0.5 to 2",
    "model: excluded, ImageType is 'DERIVED'",
    "model: 2 images, and it needs at least 3",
    "the only series that fits",
    "fits, and was chosen by ada: the better one",
    "input flair: fits, and another series is preferred",
    "ambiguous: fits, and so do 2 other series equally well",
    "waits for the quota of RESEARCH1: at most 20 runs in 1 h",
    "1 object answered",
    "12 objects answered, 12 committed",
    "attempts spent: old_pacs, tcp: no TCP connection to 127.0.0.1:4298: Connection refused",
    "the profile of pacs takes no SC",
)


@pytest.mark.parametrize("sentence", SAID)
def test_what_the_node_says_is_said_in_chinese(sentence: str) -> None:
    shown, tag = spoken(sentence, ZH)
    assert tag == "zh-Hans"
    assert any("\u4e00" <= character <= "\u9fff" for character in shown)
    assert shown.count("; ") == sentence.count("; ")
    assert spoken(sentence, EN) == (sentence, "en")


def test_values_stay_in_their_places() -> None:
    shown, _ = spoken("model: SliceThickness is 5, outside 0.5 to 2", ZH)
    assert shown == "模型：SliceThickness 为 5，超出 0.5 至 2 的范围"
    shown, _ = spoken("attempts spent: old_pacs, tcp: no TCP connection to 127.0.0.1:4298: Connection refused", ZH)
    assert shown == "已无剩余尝试次数：old_pacs：到 127.0.0.1:4298 的 TCP 连接被拒绝"


@pytest.mark.parametrize("sentence", ["", "something else", "28 instances; something else", "100% of it; %(count)s", "fits; <b>"])
def test_what_is_not_known_stays_as_it_was_said(sentence: str) -> None:
    assert spoken(sentence, ZH) == (sentence, "en")


def test_it_stays_text() -> None:
    assert str(_reason("<b>x", ZH)) == '<span lang="en" dir="auto">&lt;b&gt;x</span>'
    made = str(_reason("required series X=<b> is there", ZH))
    assert "&lt;b&gt;" in made
    assert "<b>" not in made
