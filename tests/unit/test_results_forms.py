"""Which forms a profile asks for, and what the forms beside SEG and SR say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from pydicom import Dataset

from dicom_node.config import Peer
from dicom_node.results.context import EncodedObject, Outcome
from dicom_node.results.display import shown, window_of
from dicom_node.results.encode import encode, nothing_run
from dicom_node.results.forms import KINDS, Form, beyond_the_record, chosen_for
from dicom_node.results.readback import ReadbackMismatch, verify
from models.findings import Prediction
from tests.results_cases import (
    MODEL,
    SERIES,
    classification,
    context,
    ellipsoid,
    enhanced,
    headers,
    of_kind,
    prediction,
    read,
    segment,
    volume,
)

EVERY = tuple(Form(kind) for kind in KINDS if kind not in ("SEG", "SR"))
VALUES = np.arange(8 * 24 * 20, dtype=np.int16).reshape(8, 24, 20)


def profile(*results: str, **more: object) -> Peer:
    return Peer.model_validate({"name": "pacs", "ae_title": "PACS", "results": results, **more})


def made(found: Prediction, *forms: Form, sources: Sequence[Dataset] | None = None, **more: object) -> list[EncodedObject]:
    sources = sources or headers()
    objects = encode(found, sources, context(sources, forms=forms, **more), VALUES[: len(found.frame_numbers)])
    verify(objects, found)
    return objects


def two_segments(count: int = 8) -> Prediction:
    masks = [ellipsoid(count, 24, 20), ellipsoid(count, 24, 20, scale=0.2)]
    return prediction(headers(count), [segment(mask, n, f"part {n}") for n, mask in enumerate(masks, 1)], [volume(), volume(2.5, 2)])


def test_the_record_alone_asks_for_nothing_more() -> None:
    assert beyond_the_record([profile("SEG", "SR"), profile("SR")]) == ()
    assert [each.kind for each in made(two_segments())] == ["SEG", "SR"]


def test_what_peers_take_and_the_archive_keeps_is_made_once() -> None:
    wanted = beyond_the_record([profile("SEG", "KO", max_frames=3), profile("SR", "KO", "LABELMAP")], kept=["SC", "SR"])
    assert [str(form) for form in wanted] == ["KO", "LABELMAP", "SC", "SEG/3"]


def test_a_delivery_has_the_forms_of_its_peer_and_tells_what_of_the_record_is_not_offered() -> None:
    objects = made(two_segments(), *EVERY, Form("SEG", 3))
    kinds = {each.sop_instance_uid: each for each in objects}

    def forms(peer: Peer) -> dict[str, list[tuple[str, ...]]]:
        return {kind: [kinds[uid].forms for uid in uids] for kind, uids in chosen_for(peer, objects).items()}

    assert forms(profile("SEG", "SR")) == {"SEG": [("SEG",)], "SR": [("SR",)]}
    assert forms(profile("SR", "KO")) == {"SEG": [("SEG",)], "SR": [("SR",)], "KO": [("KO",)]}  # the SEG: NOT_OFFERED
    assert forms(profile("SEG", max_frames=3)) == {"SEG": [("SEG/3",)] * 3, "SR": [("SR",)]}
    assert list(chosen_for(profile(*KINDS), objects)) == list(KINDS), "what others refer to goes before them"


def test_an_object_that_serves_two_forms_goes_once() -> None:
    mask = ellipsoid(8, 24, 20)
    objects = made(prediction(headers(), [segment(mask, 1, "likely", (mask * np.float32(0.6)))]), Form("FRACTIONAL"))
    assert [each.forms for each in objects] == [("SEG", "FRACTIONAL"), ("SR",)]
    assert chosen_for(profile("SEG", "FRACTIONAL", "SR"), objects) == {
        "SEG": [objects[0].sop_instance_uid],
        "SR": [objects[1].sop_instance_uid],
    }
    assert list(chosen_for(profile("FRACTIONAL"), objects)) == ["FRACTIONAL", "SR"]


def test_the_same_run_gives_the_same_bytes_in_every_form() -> None:
    once, again = made(two_segments(), *EVERY, Form("SEG", 3)), made(two_segments(), *EVERY, Form("SEG", 3))
    assert [each.dataset_bytes for each in once] == [each.dataset_bytes for each in again]
    assert len({each.sop_instance_uid for each in once}) == len(once)
    per_series: dict[str, set[str]] = {}
    for each in once:
        per_series.setdefault(each.series_uid, set()).add(str(read(each).Modality))
    assert all(len(modalities) == 1 for modalities in per_series.values())


@pytest.mark.parametrize("form", [Form("SEG", 3), Form("LABELMAP", 2), Form("FRACTIONAL", 4)])
def test_parts_are_within_the_limit_and_together_the_whole(form: Form) -> None:
    found = two_segments()
    parts = [read(each) for each in made(found, form) if str(form) in each.forms]
    assert len(parts) > 1
    assert all(int(part.NumberOfFrames) <= form.max_frames for part in parts)
    assert not any("ConcatenationUID" in part for part in parts)
    whole = [read(each) for each in made(found, Form(form.kind)) if form.kind in each.forms]
    assert sum(int(part.NumberOfFrames) for part in parts) == sum(int(each.NumberOfFrames) for each in whole)


def test_a_seg_within_the_limit_is_the_one_of_the_record() -> None:
    objects = made(two_segments(), Form("SEG", 500))
    assert [(each.kind, each.forms) for each in objects] == [("SEG", ("SEG", "SEG/500")), ("SR", ("SR",))]


def test_probabilities_are_one_object_for_seg_and_fractional_and_masks_are_occupancy() -> None:
    mask = ellipsoid(8, 24, 20)
    found = prediction(headers(), [segment(mask, 1, "sure"), segment(mask, 2, "likely", (mask * np.float32(0.6)))])
    objects = made(found, Form("FRACTIONAL"))
    assert [each.forms for each in objects] == [("SEG",), ("SEG", "FRACTIONAL"), ("SR",), ("FRACTIONAL",)]
    assert [read(objects[n]).SegmentationFractionalType for n in (1, 3)] == ["PROBABILITY", "OCCUPANCY"]


def test_a_difference_in_a_part_is_noticed() -> None:
    found = two_segments()
    objects = made(found, Form("LABELMAP", 2))
    with pytest.raises(ReadbackMismatch, match="LABELMAP/2"):
        verify([each for each in objects if each is not objects[-1]], found)


def test_key_images_are_where_a_finding_is_largest() -> None:
    mask = np.zeros((8, 24, 20), bool)
    mask[2, :3, :3] = mask[5, :9, :9] = True
    document = read(of_kind(made(prediction(headers(), [segment(mask)]), Form("KO")), "KO"))
    assert document.ConceptNameCodeSequence[0].CodeValue == "113000"
    images = [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in document.ContentSequence if item.ValueType == "IMAGE"]
    assert images == [f"{SERIES}.6"]
    text = "\n".join(item.TextValue for item in document.ContentSequence if item.ValueType == "TEXT")
    assert "not verified by a person" in text
    assert "Brain Volume 1234.5 ml" in text


def test_an_enhanced_source_is_named_by_its_frames() -> None:
    source = enhanced(6)
    mask = np.zeros((6, 24, 20), bool)
    mask[1, 3:9, 4:8] = True
    found = prediction([source], [segment(mask)], frame_numbers=(6, 5, 4, 3, 2, 1))
    objects = made(found, *EVERY, sources=[source])
    image = next(item for item in read(of_kind(objects, "KO")).ContentSequence if item.ValueType == "IMAGE")
    assert image.ReferencedSOPSequence[0].ReferencedFrameNumber == 5
    state = read(of_kind(objects, "PR"))
    assert {item.ReferencedImageSequence[0].ReferencedFrameNumber for item in state.GraphicAnnotationSequence} == {5}
    assert read(of_kind(objects, "SC")).SourceImageSequence[0].ReferencedFrameNumber == 5


def test_nothing_found_is_shown_and_has_no_key_image() -> None:
    nothing = prediction(headers(), [segment(ellipsoid(8, 24, 20) & False)], [])
    assert [each.kind for each in made(nothing, *EVERY, outcome=Outcome.NOTHING_FOUND)] == ["SR", "SC", "SC_MULTIFRAME"]


def test_a_decision_alone_has_a_key_image_and_no_outline() -> None:
    decided = prediction(headers(), [], [], [classification()])
    assert [each.kind for each in made(decided, *EVERY)] == ["SR", "KO", "SC", "SC_MULTIFRAME"]


def test_a_run_without_result_has_no_form_but_its_report() -> None:
    sources = headers()
    told = context(sources, forms=EVERY, outcome=Outcome.NOT_APPLICABLE, report_reason=True)
    assert [each.kind for each in encode(nothing_run(MODEL, sources), sources, told)] == ["SR"]


def test_the_picture_shows_finding_and_legend_and_leaves_the_image_as_it_was() -> None:
    sources = headers(WindowCenter=2000, WindowWidth=4000)
    mask = np.zeros((8, 24, 20), bool)
    mask[4, 6:12, 5:15] = True
    picture = read(of_kind(made(prediction(sources, [segment(mask)]), Form("SC"), sources=sources), "SC"))
    assert (picture.Modality, picture.BurnedInAnnotation, picture.PhotometricInterpretation) == ("OT", "NO", "RGB")
    pixels = picture.pixel_array
    factor = 26  # 20 columns become at least 512
    assert pixels.shape[1] == 20 * factor
    assert pixels.shape[0] > 24 * factor  # the legend stands below
    inside, outside = pixels[9 * factor, 10 * factor].astype(int), pixels[2 * factor, 2 * factor].astype(int)
    assert inside[0] - inside[2] > 20  # coloured
    assert len(set(outside.tolist())) == 1  # grey
    legend = pixels[24 * factor :].reshape(-1, 3)
    assert (legend == (255, 190, 60)).all(axis=1).sum() > 100  # for review
    assert (legend == (230, 120, 90)).all(axis=1).sum() > 100  # the segment's patch


def test_no_form_tells_the_patient_in_its_own_words() -> None:
    for each in made(two_segments(), *EVERY):
        dataset = read(each)
        assert dataset.PatientID == "P1"
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "AccessionNumber", "StudyID"):
            del dataset[keyword]
        assert not [element for element in dataset.iterall() if element.VR not in ("OB", "OW", "SQ") and "Doe" in str(element.value)]


def test_the_window_is_the_images_own() -> None:
    header = headers(1, WindowCenter=[100, 7], WindowWidth=[50, 8])[0]
    assert window_of(header) == (100.0, 50.0)
    assert shown(np.array([[75, 99.5, 125]]), header).tolist() == [[0, 128, 255]]
    plain = headers(1)[0]
    assert window_of(plain) is None
    assert shown(np.array([[-5, 0, 5]]), plain).tolist() == [[0, 128, 255]]
    assert shown(np.array([[3, 3]]), plain).tolist() == [[0, 0]]
    inverted = headers(1, PhotometricInterpretation="MONOCHROME1")[0]
    assert shown(np.array([[-5, 5]]), inverted).tolist() == [[255, 0]]
    for broken in ({"WindowCenter": 1, "WindowWidth": 0}, {"WindowCenter": 1}, {"WindowCenter": "", "WindowWidth": ""}):
        assert window_of(headers(1, **broken)[0]) is None
