"""From the worklist into the viewer, signed in, with real images: the model's segmentation lies over them, and its report is at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from pydicom import Dataset, dcmread

from dicom_node.viewer.installation import install, root_of
from tests.browser import SCREENSHOTS, Site, browser, people
from tests.node import PLAIN, running, send, settings, uid_of
from tests.npm import viewer
from tests.results_cases import series_in, unpacked
from tests.tiny_bundle import tiny_bundle
from tests.webserver import serving

pytestmark = [pytest.mark.peer("chromium"), pytest.mark.peer("npm"), pytest.mark.real_data, pytest.mark.xdist_group("browser")]

RULES = """
[[rule]]
name = "head"
match = { Modality = "MR" }
run = ["white"]

[[rule]]
name = "bone"
match = { Modality = "CT" }
run = ["bone"]

[[rule]]
name = "lungs"
match = { Modality = ["CR", "DX"] }
run = ["cxr_lungs"]
"""
SLICES = 100  # of the T1 series: what the figure of the viewer is given for
PATIENCE = 120_000  # ms; two cores draw by software
# Pixels with the colour of a finding: these images are grey.
COLOURED = """() => {
  let found = 0;
  for (const canvas of document.querySelectorAll("canvas")) {
    if (canvas.width < 100) continue;
    const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
    const context = copy.getContext("2d");
    context.drawImage(canvas, 0, 0);
    const data = context.getImageData(0, 0, copy.width, copy.height).data;
    for (let at = 0; at < data.length; at += 4) {
      const some = [data[at], data[at + 1], data[at + 2]];
      if (Math.max(...some) - Math.min(...some) > 40) found += 1;
    }
  }
  return found;
}"""
MODALITIES = "() => (window.services?.displaySetService?.getActiveDisplaySets?.() ?? []).map(each => each.Modality)"


def bundle(folder: Path, name: str, modality: str, threshold: float) -> None:
    """A model that finds what is brighter than a threshold."""
    root = tiny_bundle(folder, name=name)
    description = root / "dicom.toml"
    text = description.read_text().replace('any = [{ SeriesDescription = "*T1*" }]\n', "")
    description.write_text(text.replace('Modality = "MR"', f'Modality = "{modality}"'))
    inference = root / "configs" / "inference.json"
    inference.write_text(inference.read_text().replace("1000.0", str(threshold)))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("node")
    bundle(folder / "bundles", "white", "MR", 55.0)
    bundle(folder / "bundles", "bone", "CT", 300.0)
    # Of a radiograph the viewer shows what was found in a secondary capture: its segmentation has no Frame of Reference.
    plain = PLAIN.replace("[web]\n", "[web]\nsign_in = true\n").replace("[archive]\n", '[archive]\nresults = ["SC"]\n')
    config = settings(folder, plain=plain, more=RULES)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with running(config) as node, serving(config) as web, browser() as before:
        install(root_of(config), viewer())
        people(node)
        yield Site(node, web, before, folder)


def real(kind: str, data: Path, temporary: Path) -> list[Dataset]:
    """Real images of a study."""
    if kind == "CR":
        return [dcmread(data / "singles" / "nih-rsna_CR_chest_1024_jpeg.dcm")]
    archive = {"MR": "mr-t1/studyforrest-t1w-384.tar.xz", "CT": "ct/philips-head-5mm.tar.xz"}[kind]
    paths = [path for path, _ in series_in(unpacked(data / archive, temporary))]
    first = (len(paths) - SLICES) // 2 if kind == "MR" else 0
    return [dcmread(path) for path in paths[first : len(paths) - first]]


@pytest.mark.parametrize("kind", ["MR", "CR", "CT"])
def test_the_study_pages_link_opens_the_viewer_with_segmentation_and_report(
    site: Site, kind: str, real_data: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    images = real(kind, real_data, tmp_path_factory.getbasetemp())
    assert set(send(site.node, images, tmp_path)) == {0}
    site.node.work()
    (run,) = [each.run for each in site.node.story(uid_of(images)).runs]
    assert run.state == "COMPLETED", run.reason
    page = site.signed_in("ben")
    page.set_default_timeout(PATIENCE)
    page.goto(f"/studies/{uid_of(images)}")
    page.get_by_role("link", name="Open in the viewer").click()
    page.wait_for_url("**/viewer/viewer?**")
    shown = until_coloured(page)
    if kind == "CT":  # the first image is of the table; the segmentation goes on over the others
        page.locator(".cornerstone-viewport-element, [data-viewport-uid]").first.hover()
        for _ in range(14):
            page.mouse.wheel(0, 100)
    page.screenshot(path=SCREENSHOTS / f"viewer-{kind}.png")
    assert shown > 200
    assert {"SEG", "SR", kind} <= set(page.evaluate(MODALITIES))
    expect(page.get_by_text("Basic Viewer tour")).to_have_count(0)
    assert page.locator(".shepherd-element").count() == 0  # nobody is led around
    assert page.evaluate("window.noted") == []
    assert site.foreign == []
    assert not [said for said in site.errors if "Content Security Policy" in said]


def until_coloured(page: Page) -> int:
    """The number of coloured pixels, once there are some."""
    found = page.wait_for_function(f"() => {{ const found = ({COLOURED})(); return found > 200 && found; }}")
    return int(found.json_value())
