"""The viewer on a study of 100 slices with its segmentation, signed in: `python -m benchmarks.viewer [--images FOLDER] [--save]`.

A node as `dicom-node init` sets it up receives the images and finds what is bright in them. Then Chromium, with an empty cache and WebGL by
software, signs in and follows the study page's own link, and the times count from that click: until the first image is drawn, and until the
segmentation's colour lies over it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright
from pydicom import Dataset, dcmread

from benchmarks.receivers import Node, await_true, fresh
from benchmarks.report import WORK, save, spread, table
from benchmarks.workitems import answers
from dicom_node.accounts import hashed
from dicom_node.config import load
from dicom_node.node import prepare
from dicom_node.viewer.installation import install, root_of
from storage import accounts
from storage.database import open_database
from storage.visibility import Limits
from tests.browser import ARGUMENTS
from tests.imaging import series
from tests.node import send_to
from tests.tiny_bundle import THRESHOLD, tiny_bundle

PASSWORD = "correct horse battery"
RULE = '\n[[rule]]\nname = "bright"\nmatch = { Modality = "MR" }\nrun = ["tiny"]\n'
# How many pixels of the canvases are drawn, and how many in colour: the images are grey.
DRAWN = """() => {
  const found = { drawn: 0, coloured: 0 };
  for (const canvas of document.querySelectorAll("canvas")) {
    if (canvas.width < 100) continue;
    const copy = Object.assign(document.createElement("canvas"), { width: 200, height: 200 });
    const context = copy.getContext("2d");
    context.drawImage(canvas, 0, 0, 200, 200);
    const data = context.getImageData(0, 0, 200, 200).data;
    for (let at = 0; at < data.length; at += 4) {
      const some = [data[at], data[at + 1], data[at + 2]];
      if (Math.max(...some) > 30) found.drawn += 1;
      if (Math.max(...some) - Math.min(...some) > 40) found.coloured += 1;
    }
  }
  return found;
}"""
ENOUGH = 100  # of the 40,000 pixels that are looked at


def head(slices: int = 100) -> list[Dataset]:
    """A ball with a bright core, where no images are given."""
    z, y, x = np.mgrid[:slices, :256, :256]
    distance = np.sqrt(((z - slices / 2) * 2) ** 2 + (y - 128) ** 2 + (x - 128) ** 2)
    values = np.where(distance < 92, 400 + 3 * (x % 16), 20).astype(np.int16)
    values[distance < 36] = 1500
    return series(values, SeriesDescription="T1")


def bundle(folder: Path, threshold: float) -> None:
    """A model that finds what is bright in any MR series."""
    root = tiny_bundle(folder)
    for path, old, new in (
        (root / "dicom.toml", 'any = [{ SeriesDescription = "*T1*" }]\n', ""),
        (root / "configs" / "inference.json", str(THRESHOLD), str(threshold)),
    ):
        path.write_text(path.read_text().replace(old, new))


def furnished(node: Node, folder: Path, images: list[Dataset], threshold: float) -> str:
    """Start the node with an account, the viewer and the images; the study's UID once its segmentation is there."""
    bundle(folder / "bundles", threshold)
    node.configure(folder)
    config = load(node.config)
    prepare(config)
    database = open_database(f"sqlite:///{next(config.node.data_dir.glob('*.sqlite'))}")
    with database.begin() as connection:
        accounts.add(connection, "ada", hashed("ada", PASSWORD), "radiologist", Limits(), actor="benchmark")
    database.close()
    install(root_of(config), None)
    node.start(folder)
    await_true(lambda: answers(node.http), "the node does not answer over HTTP")
    assert set(send_to(node.port, images, folder / "sent", called="DICOM_NODE", calling="LOAD")) == {0}
    finished = "SELECT count(*) FROM run WHERE state = 'COMPLETED'"
    await_true(lambda: node.query(finished) == [(1,)], "the model does not end", deadline=180)
    return str(images[0].StudyInstanceUID)


def once(browser: Browser, url: str, study: str) -> tuple[float, float]:
    """Seconds from the click to the first image, and to its overlay, in a browser that has seen nothing before."""
    context = browser.new_context(viewport={"width": 1280, "height": 850}, base_url=url)
    context.set_default_timeout(120_000)
    page = context.new_page()
    page.goto("/")
    page.locator("#name").fill("ada")
    page.locator("#password").fill(PASSWORD)
    page.locator("main form button").click()
    page.goto(f"/studies/{study}")
    link = page.get_by_role("link", name="Open in the viewer")
    began = time.monotonic()
    link.click()
    image = _when(page, "drawn", began)
    overlay = _when(page, "coloured", began)
    context.close()
    return image, overlay


def _when(page: Page, what: str, began: float) -> float:
    page.wait_for_function(f"({DRAWN})().{what} > {ENOUGH}", polling=100)
    return time.monotonic() - began


def main() -> None:
    """Measure, print the table and keep it in benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="a folder with the images of one MR series, instead of a made one")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="what is bright in them")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    images = [dcmread(path) for path in sorted(options.images.iterdir())] if options.images else head()
    folder = fresh(WORK / "viewer")
    node = Node(lambda text: text.replace("bundles = [", f'bundles = ["{folder / "bundles"}", ', 1) + RULE)
    try:
        study = furnished(node, folder, images, options.threshold)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
            times = [once(browser, f"http://127.0.0.1:{node.http}", study) for _ in range(options.repeats)]
            browser.close()
    finally:
        node.stop()
    size = f"{images[0].Rows} x {images[0].Columns}"
    rows = [
        ["first image", spread([image for image, _ in times], "{:.1f}"), "4"],
        ["segmentation over it", spread([overlay for _, overlay in times], "{:.1f}"), "6"],
    ]
    text = table([f"{len(images)} slices of {size}, seconds from the click", "median (range)", "limit"], rows)
    print(text)
    if options.save:
        save("viewer", {"slices": len(images), "size": size, "seconds": times}, text)


if __name__ == "__main__":
    main()
