"""What cleaning found, as JSON and as one HTML page with small pictures."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape

from models.datasets.clean import Cleaned, Finding
from models.datasets.loading import ItemUnreadable, load
from models.datasets.protocol import DataSet, Item
from models.datasets.sheet import thumbnail

#: Pictures on the page; the first findings of each kind have them.
PICTURES_A_KIND = 12
PICTURES_A_FINDING = 4
ROWS_A_KIND = 500

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1c2430; background: #fff; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; width: 100%; }
td, th { text-align: left; padding: .3rem .8rem .3rem 0; vertical-align: top; border-bottom: 1px solid #d8dde4; }
th { font-weight: 600; }
.number { text-align: right; }
img { border: 0; margin-right: 4px; background: #12141a; }
.out { color: #a3231f; }
.look { color: #7a5b00; }
small { color: #5a6572; word-break: break-all; }
@media (prefers-color-scheme: dark) {
  body { color: #dfe4ea; background: #14171c; }
  td, th { border-color: #333a44; }
  a { color: #8ab8ff; }
  .out { color: #ff8a80; }
  .look { color: #e6c35c; }
  small { color: #9aa5b1; }
}
"""


def as_json(dataset: DataSet, cleaned: Cleaned) -> str:
    """Everything that was found, the reader's skipped rows too."""
    content = {
        "schema": 1,
        "data": dataset.name,
        "items": len(dataset),
        "looked_at": cleaned.looked_at,
        "kept": len(cleaned.kept),
        "counts": cleaned.counts,
        "findings": [asdict(finding) for finding in cleaned.findings],
        "skipped": [asdict(each) for each in dataset.skipped],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def as_html(dataset: DataSet, cleaned: Cleaned) -> str:
    """A page for a person: what was found, why, and what becomes of it."""
    items = {item.id: item for item in dataset}
    body = "".join(_page(dataset, cleaned, items))
    title = escape(f"Cleaning of {dataset.name}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>{body}</html>\n"
    )


def _page(dataset: DataSet, cleaned: Cleaned, items: Mapping[str, Item]) -> Iterator[str]:
    out = len(dataset) - len(cleaned.kept)
    yield f"<p>{len(dataset)} items, {cleaned.looked_at} looked at: {out} left out of the cleaned manifest, {len(cleaned.kept)} kept. "
    yield f"{len(dataset.skipped)} rows were skipped by the reader. Nothing was deleted.</p>"
    if not cleaned.findings:
        yield "<p>Nothing was found.</p>"
    else:
        yield '<table><tr><th>found</th><th class="number">times</th><th>items</th></tr>'
        for kind, count in cleaned.counts.items():
            left = sum(1 for finding in cleaned.findings if finding.kind == kind and finding.left_out)
            fate = f'<span class="out">left out ({left})</span>' if left else '<span class="look">kept: to be looked at</span>'
            yield f'<tr><td><a href="#{kind}">{kind}</a></td><td class="number">{count}</td><td>{fate}</td></tr>'
        yield "</table>"
    for kind in cleaned.counts:
        yield from _section(kind, [finding for finding in cleaned.findings if finding.kind == kind], items)
    if dataset.skipped:
        yield f"<h2>Skipped by the reader ({len(dataset.skipped)})</h2><table><tr><th>where</th><th>row</th><th>why</th></tr>"
        for each in dataset.skipped[:ROWS_A_KIND]:
            yield f"<tr><td><small>{escape(each.where)}</small></td><td>{escape(each.row)}</td><td>{escape(each.reason)}</td></tr>"
        yield "</table>"


def _section(kind: str, findings: Sequence[Finding], items: Mapping[str, Item]) -> Iterator[str]:
    yield f'<h2 id="{kind}">{kind} ({len(findings)})</h2><table><tr><th>items</th><th>why</th><th>pictures</th></tr>'
    for index, finding in enumerate(findings[:ROWS_A_KIND]):
        names = ", ".join(
            escape(each) + (" <span class=out>(out)</span>" if each in finding.left_out else "") for each in finding.items[:12]
        )
        more = f" and {len(finding.items) - 12} more" if len(finding.items) > 12 else ""
        shown = "".join(_picture(items[each]) for each in finding.items[:PICTURES_A_FINDING]) if index < PICTURES_A_KIND else ""
        where = f"<br><small>{escape(finding.where)}{', ' + escape(finding.row) if finding.row else ''}</small>"
        yield f"<tr><td>{names}{more}</td><td>{escape(finding.reason)}{where}</td><td>{shown}</td></tr>"
    yield "</table>"
    if len(findings) > ROWS_A_KIND:
        yield f"<p>{len(findings) - ROWS_A_KIND} more are in clean.json.</p>"


def _picture(item: Item) -> str:
    try:
        cell = thumbnail(item, load(item), (), side=112)
    except (ItemUnreadable, IndexError, ValueError):
        return ""
    out = io.BytesIO()
    cell.save(out, "JPEG", quality=80)
    name = escape(item.id, quote=True)
    return f'<img alt="{name}" title="{name}" src="data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}">'
