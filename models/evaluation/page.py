"""The report as one HTML file: what was measured, on whom, how sure, where it fails. It asks no network for anything."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from models.evaluation import classification, detection, plots, segmentation
from models.evaluation.bootstrap import Figure
from models.evaluation.evaluate import Report
from models.evaluation.gallery import FOUND, REFERENCE
from models.evaluation.methods import definitions
from models.evaluation.protocol import slug
from models.evaluation.report import volume_unit
from models.evaluation.subgroups import SMALL, Group, groups_of
from models.evaluation.words import Word, interval, number, of_what, words_of

STYLE = Path(__file__).with_name("page.css")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
MOST_LISTED = 200


def write_page(report: Report, path: Path) -> None:
    """Write the page, whole or not at all."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(page(report), encoding="utf-8")
    partial.replace(path)


def page(report: Report) -> str:
    """The whole page."""
    title = f"{report.model.name} {report.model.version} on {report.data.name}"
    parts = [*_top(report), *_whom(report), *_figures(report), *_plots(report), *_subgroups(report), *_comparison(report)]
    parts += [*_gallery(report), *_left_out(report), *_methods(report)]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Evaluation: {escape(title)}</title>",
            f"<style>{STYLE.read_text(encoding='utf-8')}</style></head><body><main>",
            *parts,
            "</main></body></html>",
            "",
        ]
    )


def _words(report: Report) -> dict[str, Word]:
    return words_of(report.measured.unit, volume_unit(report))


def _top(report: Report) -> Iterator[str]:
    model, data = report.model, report.data
    yield f"<p class=sub>Evaluation of a model, {escape(report.created[:16].replace('T', ' '))} UTC</p>"
    yield f"<h1>{escape(model.name)} {escape(model.version)} on {escape(data.name)}</h1>"
    yield f"<p>{escape(model.intended_use)}</p>" if model.intended_use else ""
    if model.experimental:
        yield "<p class=flag>The model calls itself experimental.</p>"
    yield "<div class=headline>"
    for metric in _foremost(report):
        yield _tile(report, metric)
    people = f"{data.subjects} subject" + ("" if data.subjects == 1 else "s")
    where = f"split: {data.split}" if data.split != "all" else "no split: all items"
    items = f"{data.items} item" + ("" if data.items == 1 else "s")
    yield f"<div><span class=meaning>measured on</span><b>{people}</b>{items}, {escape(where)}</div></div>"
    if report.notes:
        yield "<div class=warn><strong>Before you believe it</strong><ul>"
        yield from (f"<li>{escape(note)}</li>" for note in report.notes)
        yield "</ul></div>"


def _foremost(report: Report) -> list[str]:
    wished = [report.headline]
    if report.measured.task == "segmentation":
        wished += [f"dice.{slug(name)}" for name in report.measured.classes[:2]] + [f"hd95.{slug(report.measured.classes[0])}"]
    elif report.measured.task == "classification":
        wished += ["sensitivity", "specificity"] if len(report.measured.classes) == 1 else ["accuracy", "balanced_accuracy"]
    else:
        wished += ["map50_95", "froc"]
    return [each for each in dict.fromkeys(wished) if each in report.figures][:3]


def _tile(report: Report, metric: str) -> str:
    key, whose = of_what(metric, report.measured.classes)
    word, figure = _words(report)[key], report.figures[metric]
    sure = "no interval" if figure.low is None else f"95 % interval {interval(figure, word.decimals)}"
    of = f", {escape(whose)}" if whose else ""
    unit = f" {word.unit}" if word.unit and figure.value is not None else ""
    return f"<div><span class=meaning>{escape(word.name)}{of}</span><b>{number(figure.value, word.decimals)}{unit}</b>{sure}</div>"


def _whom(report: Report) -> Iterator[str]:
    data, measured = report.data, report.measured
    yield "<h2>On whom</h2><dl>"
    rows = [
        ("data set", data.name),
        ("split", data.split),
        ("subjects", str(data.subjects)),
        ("items", str(data.items)),
        ("evaluated", f"{len(measured.cases)}, of these without an answer: {len(report.unanswered)}"),
        ("left out", str(len(measured.skipped))),
        ("compared", ", ".join(measured.classes)),
        ("fingerprint of the data", data.fingerprint[:16]),
    ]
    yield from (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    yield "</dl>"
    groups = groups_of(measured.cases)
    if groups:
        yield "<div class=wide><table><tr><th>who they are<th>items in each group</tr>"
        for name, parts in groups.items():
            text = ", ".join(f"{value}: {len(places)}" for value, places in parts.items())
            yield f"<tr><td>{escape(name)}<td>{escape(text)}</tr>"
        yield "</table></div>"
    else:
        yield "<p class=sub>The data says nothing of sex, age, scanner, view or site, or all items are alike in it.</p>"


def _figures(report: Report) -> Iterator[str]:
    """Figures of everything in one table; those of several classes in another, a column a class."""
    classes = report.measured.classes
    own = {f".{slug(name)}": name for name in classes}
    overall = [name for name in report.figures if not any(name.endswith(end) for end in own)]
    if len(classes) == 1:
        overall = [name for name in report.figures if name.rpartition(".")[0] not in report.figures]
    yield "<h2>What was measured, and how sure it is</h2>"
    yield from _overall(report, sorted(overall, key=lambda name: (name == "coverage", "." in name and name != report.headline)))
    if len(classes) > 1:
        yield from _by_class(report)
    if any(figure.method == "wilson" for figure in report.figures.values()):
        yield "<p class=sub>* All agree, so drawing again shows no spread; this is Wilson's interval of a share.</p>"
    yield from _glossary(report)
    yield from _thresholds(report)


def _overall(report: Report, names: Sequence[str]) -> Iterator[str]:
    words = _words(report)
    yield "<div class=wide><table><tr><th>figure<th>of<th class=number>value<th class=number>95 % interval"
    yield "<th class=number>n<th class=meaning>meaning</tr>"
    for name in names:
        key, whose = of_what(name, report.measured.classes)
        word, figure = words.get(key, Word(key, "")), report.figures[name]
        yield (
            f"<tr><td>{escape(word.name)}<td>{escape(whose)}<td class=number>{_value(figure, word)}"
            f"<td class=number>{_interval(figure, word)}<td class=number>{figure.n}<td class=meaning>{escape(word.meaning)}</tr>"
        )
    yield "</table></div>"


def _by_class(report: Report) -> Iterator[str]:
    words, classes = _words(report), report.measured.classes
    keys = list(
        dict.fromkeys(name.partition(".")[0] for name in report.figures if name.endswith(tuple(f".{slug(each)}" for each in classes)))
    )
    yield "<h3>Class by class</h3><div class=wide><table><tr><th>figure"
    yield "".join(f"<th class=number>{escape(name)}" for name in classes) + "</tr>"
    for key in keys:
        cells = ""
        for name in classes:
            figure = report.figures[f"{key}.{slug(name)}"]
            cells += f"<td class=number>{_value(figure, words[key])}<br><small>{_interval(figure, words[key])}<br>n = {figure.n}</small>"
        yield f"<tr><td>{escape(words[key].name)}{cells}</tr>"
    yield "</table></div>"


def _value(figure: Figure, word: Word) -> str:
    return number(figure.value, word.decimals) + (f" {word.unit}" if word.unit and figure.value is not None else "")


def _interval(figure: Figure, word: Word) -> str:
    return interval(figure, word.decimals) + (" *" if figure.method == "wilson" else "")


def _glossary(report: Report) -> Iterator[str]:
    words = _words(report)
    keys = list(dict.fromkeys(name.partition(".")[0] for name in report.figures))
    yield "<details><summary>What the figures mean</summary><dl>"
    yield from (f"<dt>{escape(words[key].name)}</dt><dd>{escape(words[key].meaning)}</dd>" for key in keys if key in words)
    yield "<dt>n</dt><dd>how many items (of boxes: how many boxes) the figure is about</dd></dl></details>"


def _thresholds(report: Report) -> Iterator[str]:
    if not report.thresholds:
        return
    yield "<h3>Thresholds</h3><div class=wide><table><tr><th>label<th class=number>threshold<th>where it comes from</tr>"
    for label, each in report.thresholds.items():
        source = each.source + (f", {each.n} items" if each.n is not None else "") + f": {each.rule}"
        yield f"<tr><td>{escape(label)}<td class=number>{each.value:.4g}<td>{escape(source)}</tr>"
    yield "</table></div>"
    if report.kind == "multi-class":
        yield "<p class=sub>Each item has one class here: the highest score decides, and the thresholds are not used.</p>"


def _figure(svg: str | None, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" if svg else ""


def _plots(report: Report) -> Iterator[str]:
    drawn = {"segmentation": _segmentation_plots, "classification": _classification_plots}.get(report.measured.task, _detection_plots)(
        report
    )
    yield "<div class=plots>"
    yield from drawn
    yield "</div>"
    if report.measured.task == "classification":
        yield from _confusion(report)


def _segmentation_plots(report: Report) -> Iterator[str]:
    cases, classes, unit = report.measured.cases, report.measured.classes, report.measured.unit
    yield _figure(
        plots.distribution("dice", "Dice of each item", cases, classes, "dice", "Dice"),
        "Dice: a dot an item; the bar is the middle half, its line the median.",
    )
    yield _figure(
        plots.distribution("hd95", "Hausdorff 95 of each item", cases, classes, "hd95", f"Hausdorff 95 ({unit})"),
        "Hausdorff 95: where a dot is high, part of the outline is far off.",
    )
    word = "volume" if volume_unit(report) == "mL" else "area"
    for number_, name in enumerate(classes[:6]):
        limits = segmentation.bland_altman(cases, name)
        text = f"Bland-Altman of the {word} of {name}: bias (line), and the limits of agreement (dashed) that hold 95 % of differences."
        if limits["deviation"] is None:
            text = f"{word.capitalize()} of {name}: too few items for limits of agreement."
        yield _figure(plots.bland_altman(f"ba{number_}", text, cases, name, volume_unit(report)), text)


def _classification_plots(report: Report) -> Iterator[str]:
    cases, labels = report.measured.cases, report.measured.classes
    views = {label: classification.binary(cases, label, report.thresholds[label].value) for label in labels}
    known = {label: each for label, view in views.items() if (each := classification.curves(view)) is not None}
    if known:
        roc = {label: each["roc"] for label, each in known.items()}
        pr = {label: each["pr"] for label, each in known.items()}
        yield _figure(
            plots.lines("roc", "ROC curve", roc, ("1 - specificity", "sensitivity"), diagonal=True), "ROC. Dotted: what guessing gives."
        )
        yield _figure(
            plots.lines("pr", "Precision-recall curve", pr, ("sensitivity (recall)", "precision")),
            "Precision and recall. Precision depends on how frequent the finding is in these data.",
        )
        yield _figure(
            plots.reliability("reliability", "Reliability", {label: each["calibration"] for label, each in known.items()}),
            "Calibration: on the dotted line a score of 0.8 means 8 of 10. Larger dots hold more items.",
        )
    for index, (label, view) in enumerate(list(views.items())[:6]):
        yield _figure(
            plots.scores(f"scores{index}", f"Scores for {label}", view),
            f"Scores for {label}; dashed: the threshold, {view.threshold:.3g}.",
        )


def _detection_plots(report: Report) -> Iterator[str]:
    matches = {name: each for name, each in detection.match(report.measured.cases, report.measured.classes).items() if each.wanted.sum()}
    if not matches:
        return
    curves = {name: detection.pr_curve(each) for name, each in matches.items()}
    yield _figure(plots.lines("pr", "Precision-recall curve", curves, ("recall", "precision")), "Precision and recall at IoU 0.5.")
    yield _figure(plots.froc("froc", "FROC", matches), "FROC: what is found against false alarms in each image, IoU 0.5.")


def _confusion(report: Report) -> Iterator[str]:
    cases, labels = report.measured.cases, list(report.measured.classes)
    if report.kind == "multi-class":
        yield from _matrix("Confusion matrix", labels, [*labels, "no answer"], classification.confusion(cases, labels).tolist())
        return
    for label in labels:
        view = classification.binary(cases, label, report.thresholds[label].value)
        table = classification.confusion_of(view).tolist()
        yield from _matrix(f"Confusion matrix: {label}", ["negative", "positive"], ["negative", "positive", "no answer"], table)


def _matrix(title: str, rows: Sequence[str], columns: Sequence[str], table: Sequence[Sequence[int]]) -> Iterator[str]:
    yield f"<h3>{escape(title)}</h3><div class=wide><table><tr><th>truth<th class=number>decided: "
    yield "<th class=number>".join(escape(each) for each in columns) + "</tr>"
    for place, (name, counts) in enumerate(zip(rows, table, strict=True)):
        cells = "".join(f'<td class="number{" hit" if place == column else ""}">{count}' for column, count in enumerate(counts))
        yield f"<tr><td>{escape(name)}{cells}</tr>"
    yield "</table></div>"


def _subgroups(report: Report) -> Iterator[str]:
    if not report.subgroups:
        return
    words = _words(report)
    yield "<h2>Is it the same for everybody?</h2>"
    yield f"<p class=sub>Groups of fewer than {SMALL} subjects are pale: too few to judge by, and not compared.</p>"
    key, whose = of_what(report.headline, report.measured.classes)
    for number_, (attribute, groups) in enumerate(report.subgroups.items()):
        yield f"<h3>By {escape(attribute)}</h3>"
        gap = report.gaps.get(attribute)
        if gap is not None:
            word = words[key]
            text = (
                f"{word.name} differs most between {gap.better} and {gap.worse}: by {number(abs(gap.difference.value or 0), word.decimals)}"
            )
            text += f" (interval of the difference {interval(gap.difference, word.decimals)})."
            text += " Chance alone is an unlikely explanation." if gap.clear else " Chance may explain it."
            if gap.pairs > 1:
                text += f" The largest of {gap.pairs} pairs of groups, not corrected for that."
            yield f"<p{' class=flag' if gap.clear else ''}>{escape(text)}</p>"
        rows = [(name, group.figures[report.headline], group.small) for name, group in groups.items() if report.headline in group.figures]
        label = f"{words[key].name}{', ' + whose if whose else ''}"
        yield f"<div class=narrow>{_figure(plots.intervals(f'group{number_}', f'{label} by {attribute}', rows, unit=label), '')}</div>"
        yield from _group_table(report, groups)


def _group_table(report: Report, groups: Mapping[str, Group]) -> Iterator[str]:
    words = _words(report)
    metrics = list(dict.fromkeys(metric for group in groups.values() for metric in group.figures))
    heads = []
    for metric in metrics:
        key, whose = of_what(metric, report.measured.classes)
        heads.append(f"<th class=number>{escape(words[key].name)}{' ' + escape(whose) if whose else ''}")
    yield f"<div class=wide><table><tr><th>group<th class=number>subjects<th class=number>items{''.join(heads)}</tr>"
    for name, group in groups.items():
        cells = "".join(f"<td class=number>{_cell(group.figures.get(metric), words, metric)}" for metric in metrics)
        small = " <small>(small)</small>" if group.small else ""
        row = f"<tr{' class=pale' if group.small else ''}><td>{escape(name)}{small}"
        yield f"{row}<td class=number>{group.subjects}<td class=number>{group.items}{cells}</tr>"
    yield "</table></div>"


def _cell(figure: Figure | None, words: dict[str, Word], metric: str) -> str:
    if figure is None:
        return ""
    decimals = words[metric.partition(".")[0]].decimals
    sure = "" if figure.low is None else f"<br><small>{interval(figure, decimals)}</small>"
    return number(figure.value, decimals) + sure


def _comparison(report: Report) -> Iterator[str]:
    other = report.comparison
    if other is None:
        return
    words = _words(report)
    yield f"<h2>Beside {escape(other.model.name)} {escape(other.model.version)}</h2>"
    yield "<p class=sub>Both on the same items; the differences are paired, so what is hard for both does not blur them.</p>"
    yield "<div class=wide><table><tr><th>figure<th>of<th class=number>this model<th class=number>the other"
    yield "<th class=number>difference<th class=number>95 % interval<th>in words</tr>"
    for metric, apart in other.differences.items():
        key, whose = of_what(metric, report.measured.classes)
        word = words.get(key, Word(key, ""))
        values = (report.figures[metric].value, other.figures[metric].value, apart.value)
        cells = "".join(f"<td class=number>{number(value, word.decimals)}" for value in values)
        told = verdict(apart, report.better.get(metric))
        yield f"<tr><td>{escape(word.name)}<td>{escape(whose)}{cells}<td class=number>{interval(apart, word.decimals)}<td>{told}</tr>"
    yield "</table></div>"


def verdict(apart: Figure, higher_is_better: bool | None) -> str:
    """A paired difference in a word."""
    if apart.value is None:
        return "not defined"
    if apart.low is None or apart.high is None:
        return "no interval"
    if apart.low <= 0 <= apart.high:
        return "no clear difference"
    if higher_is_better is None:
        return "differs"
    return "better" if (apart.value > 0) == higher_is_better else "worse"


def _gallery(report: Report) -> Iterator[str]:
    yield "<h2>Where it fails</h2>"
    if not report.gallery:
        yield "<p>No item is worse than perfect, or no pictures were asked for.</p>"
        return
    yield f"<p class=sub>The {len(report.gallery)} worst of {len(report.measured.cases)} items, the worst first.</p>"
    if report.measured.task != "classification":
        reference, found = (f"rgb{colour}" for colour in (REFERENCE, FOUND))
        yield f'<p class=key>Outlines:<span style="background:{reference}"></span>reference<span style="background:{found}"></span>model'
        yield '<span style="background:#fff"></span>both</p>'
    yield "<div class=gallery>"
    for picture in report.gallery:
        data = base64.b64encode(picture.png).decode()
        label = f"{picture.case}: {picture.caption}"
        yield f'<figure><img alt="{escape(label)}" src="data:image/png;base64,{data}">'
        yield f"<figcaption><strong>{escape(picture.case)}</strong><br>{escape(picture.caption)}</figcaption></figure>"
    yield "</div>"


def _left_out(report: Report) -> Iterator[str]:
    unanswered = [(case.id, case.reason or "") for case in report.unanswered]
    skipped = [(each.row or each.where, f"{each.reason} ({each.where})") for each in report.measured.skipped]
    yield "<h2>What has no answer, and what was left out</h2>"
    if not unanswered and not skipped:
        yield "<p>Nothing: every item of the split was read and answered.</p>"
    yield from _list("Without an answer of the model", unanswered)
    yield from _list("Left out, because the data could not be used", skipped)


def _list(title: str, rows: Sequence[tuple[str, str]]) -> Iterable[str]:
    if not rows:
        return
    yield f"<h3>{escape(title)}: {len(rows)}</h3><div class=wide><table><tr><th>item<th>reason</tr>"
    yield from (f"<tr><td><code>{escape(name)}</code><td>{escape(reason)}</tr>" for name, reason in rows[:MOST_LISTED])
    yield "</table></div>"
    if len(rows) > MOST_LISTED:
        yield f"<p class=sub>and {len(rows) - MOST_LISTED} more, in report.json.</p>"


def _methods(report: Report) -> Iterator[str]:
    yield "<h2>How it was measured</h2>"
    yield from (f"<p>{escape(text)}</p>" for text in definitions(report))
    model = report.model
    yield f"<dl><dt>release digest</dt><dd><code>{escape(model.digest)}</code></dd>"
    yield f"<dt>data fingerprint</dt><dd><code>{escape(report.data.fingerprint)}</code></dd></dl>"
    yield "<p class=sub>Research software. Not a medical device, not for clinical use.</p>"
