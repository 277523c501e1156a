"""A node whose worker runs when the test says so, its served pages, and a real browser before them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, Page, sync_playwright

from dicom_node.accounts import hashed
from dicom_node.config import Config
from storage import accounts
from storage.visibility import Limits
from tests.node import PLAIN, StepNode, bright_series, peer, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle
from tests.webserver import WebNode, serving

SCREENSHOTS: Final = Path(os.environ.get("DICOM_NODE_SCREENSHOTS") or Path(__file__).resolve().parents[1] / "build" / "screenshots")
# WebGL by software, for the viewer; and no word to anybody outside.
ARGUMENTS: Final = (
    "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PASSWORD: Final = "correct horse battery"
ALERT: Final = '\n[[alert]]\nurgency = "critical"\nname = "Volume"\nabove = 0.001\n'
NOTED: Final = "window.noted = []; addEventListener('securitypolicyviolation', (event) => window.noted.push(event.violatedDirective))"


@dataclass
class Site:
    """A served node, and a browser before it."""

    node: StepNode
    web: WebNode
    browser: Browser
    folder: Path
    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.web.port}"

    def page(self, *, width: int = 1280, theme: Any = "light", locale: str = "en-GB") -> Page:
        context = self.browser.new_context(viewport={"width": width, "height": 850}, color_scheme=theme, locale=locale, base_url=self.url)
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.add_init_script(NOTED)
        page.on("request", lambda request: None if request.url.startswith((self.url, "data:")) else self.foreign.append(request.url))
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        return page

    def signed_in(self, who: str = "ada", **how: Any) -> Page:
        page = self.page(**how)
        page.goto("/")
        page.locator("#name").fill(who)
        page.locator("#password").fill(PASSWORD)
        page.locator("main form button").click()
        page.wait_for_url(re.compile(r":\d+/$"))
        return page

    def receive(self, name: str, number: int) -> str:
        """A study comes, is run, and its delivery fails."""
        images = bright_series()
        for image in images:
            image.SpecificCharacterSet = "ISO_IR 192"
            image.PatientName, image.PatientID, image.StudyDescription = name, f"P{number}", "Head"
        assert set(send(self.node, images, self.folder / str(number))) == {0}
        self.node.work()
        self.node.duties.reclaim_jobs()
        return uid_of(images)


def configured(folder: Path, *, port: int = 0) -> Config:
    """A node with a model whose finding is critical, and a peer that is down; two accounts can sign in."""
    bundle = tiny_bundle(folder / "bundles")
    with (bundle / "dicom.toml").open("a") as stream:
        stream.write(ALERT)
    plain = PLAIN.replace("[delivery]", "[delivery]\nattempts = 1").replace("[web]\nport = 0", f"[web]\nsign_in = true\nport = {port}")
    return settings(folder, plain=plain, more=peer("pacs", 1) + rule("pacs"))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a screen."""
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        try:
            yield made
        finally:
            made.close()


@contextlib.contextmanager
def opened(folder: Path, config: Config) -> Iterator[Site]:
    """The node of a configuration, served, with a browser before it."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with running(config) as node, serving(config) as web, browser() as before:
        people(node)
        yield Site(node, web, before, folder)


def people(node: StepNode) -> None:
    """Two who may sign in: ada, an administrator, and ben, a radiologist."""
    with node.node.database.begin() as connection:
        for name, role in (("ada", "administrator"), ("ben", "radiologist")):
            accounts.add(connection, name, hashed(name, PASSWORD), role, Limits(), actor="test")
