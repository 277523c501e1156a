"""Every text of the pages has its Chinese, with the same places for values; and the catalogues hold nothing that no page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from dicom_node.web.pages import language
from dicom_node.web.pages.language import FOLDER, LANGUAGES, accepted

PAGES = Path(language.__file__).parent
PLACES = re.compile(r"%\(\w+\)[sd]")


def _said() -> set[str]:
    """What the pages say: of templates and modules."""
    methods = [("templates/**.html", "jinja2"), ("**.py", "python")]
    keywords = {"_": None, "gettext": None, "ngettext": (1, 2), "N_": None}
    options = {"templates/**.html": {"trim_blocks": "true", "lstrip_blocks": "true"}}
    found = extract_from_dir(str(PAGES), methods, options, keywords=keywords)
    return {message if isinstance(message, str) else message[0] for _, _, message, _, _ in found}


def _catalogue(code: str) -> dict[str, tuple[str, ...]]:
    known: dict[str, tuple[str, ...]] = {}
    for file in sorted((FOLDER / code).glob("*.po")):
        with file.open("rb") as stream:
            for message in read_po(stream, locale=language.LOCALES[code], abort_invalid=True):
                if message.id:
                    key = message.id if isinstance(message.id, str) else message.id[0]
                    text = (message.string,) if isinstance(message.string, str) else tuple(message.string)
                    assert key not in known or known[key] == text, f"{file.name}: {key!r} is translated in two ways"
                    assert not message.fuzzy, f"{file.name}: {key!r} is fuzzy"
                    known[key] = text
    return known


@pytest.mark.parametrize("code", sorted(set(LANGUAGES) - {"en"}))
def test_every_text_is_translated(code: str) -> None:
    said, known = _said(), _catalogue(code)
    assert len(said) > 40
    assert sorted(said - {key for key, texts in known.items() if all(texts)}) == []
    assert sorted(set(known) - said) == []
    for key, texts in known.items():
        for text in texts:
            assert set(PLACES.findall(text)) <= set(PLACES.findall(key)), key


def test_the_most_wanted_language_comes_first() -> None:
    assert accepted("fr;q=0.3, zh-CN, en;q=0.8, de;q=x, *;q=0") == ["zh", "en", "fr"]
    assert accepted("") == [""]
