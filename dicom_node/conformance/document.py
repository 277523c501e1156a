"""A document of sections and tables, as Markdown or as one HTML page without scripts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1a1a1a;background:#fff}"
    "table{border-collapse:collapse;margin:1rem 0;width:100%}"
    "th,td{border:1px solid #bbb;padding:.25rem .5rem;text-align:left;vertical-align:top;overflow-wrap:anywhere}"
    "th{background:#f0f0f0}"
)
CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Table:
    """Column headings, and rows of as many cells."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs and tables below it."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = field(default=())


@dataclass(frozen=True)
class Document:
    title: str
    text: Sequence[str]
    sections: Sequence[Section]


def markdown(document: Document) -> str:
    """The document as Markdown."""
    lines = [f"# {document.title}", "", *_paragraphs(document.text)]
    for section in document.sections:
        lines += [f"## {section.title}", "", *_paragraphs(section.text)]
        for table in section.tables:
            rows = [table.head, ["---"] * len(table.head), *table.rows]
            lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows] + [""]
    return "\n".join(lines)


def _paragraphs(text: Sequence[str]) -> list[str]:
    return [line for paragraph in text for line in (paragraph, "")]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def html(document: Document) -> str:
    """The document as a page."""
    parts = [f"<h1>{escape(document.title)}</h1>", *(f"<p>{escape(text)}</p>" for text in document.text)]
    for section in document.sections:
        parts += [f"<h2>{escape(section.title)}</h2>", *(f"<p>{escape(text)}</p>" for text in section.text)]
        for table in section.tables:
            head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
            rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head = f'<!doctype html><html lang="en"><head>{meta}<title>{escape(document.title)}</title><style>{STYLE}</style></head>'
    return f"{head}<body><main>{''.join(parts)}</main></body></html>"
