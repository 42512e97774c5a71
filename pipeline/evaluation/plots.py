"""An evaluation as a picture (PNG, by matplotlib) or as a page for a browser (HTML, by itself, in one file)."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from pipeline.evaluation.evaluate import Evaluation, JudgedPage

_MISSING = "a .png is drawn by matplotlib, which is not installed: pip install 'pagepack[eval]'; an .html needs nothing"
_ROWS = 500


def check_plot(file: Path) -> None:
    """Raises UsageError: of another kind, in no folder, or matplotlib is missing. Asked before anything is read."""
    if file.suffix.lower() not in (".png", ".html"):
        raise UsageError(f"--plot {file}: name a .png or an .html")
    if not file.parent.is_dir():
        raise UsageError(f"--plot {file}: there is no folder {file.parent}")
    if file.suffix.lower() == ".png":
        _matplotlib()


def _matplotlib() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(_MISSING) from error
    return Figure


def plot(file: Path, found: Sequence[Evaluation]) -> None:
    try:
        if file.suffix.lower() == ".png":
            _draw(file, found)
        else:
            file.write_text(_page(found), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--plot {file} cannot be written: {error.strerror}") from error


def _draw(file: Path, found: Sequence[Evaluation]) -> None:
    """Left: error rates of all pages in their order, so that one sees how many are bad. Right: do doubts know them?"""
    figure = _matplotlib()(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for one in found:
        rates = [page.measured.error_rate for page in one.pages]
        left.plot(range(1, len(rates) + 1), rates, marker=".", label=one.answers[:60])
        right.scatter([page.doubt for page in one.pages], [page.measured.error_rate for page in one.pages], s=14)
    left.set(
        xlabel="pages, the worst first", ylabel="share of characters wrong", ylim=(0, None), title=found[0].name[:60]
    )
    right.set(xlabel="doubt of the engine (above 1: worth a look)", ylabel="share of characters wrong", ylim=(0, None))
    left.legend(fontsize=8)
    if not any(one.pages for one in found):  # a benchmark of questions
        for axes in (left, right):
            axes.clear()
        right.set_axis_off()
        for number, one in enumerate(found):
            means = one.categories()
            places = [place + 0.4 * number for place in range(len(means))]
            left.barh(places, [mean or 0.0 for *_, mean in means], height=0.38, label=one.answers[:60])
            left.set_yticks(places, [f"{name} ({count - gone:,})" for name, count, gone, _ in means])
        left.set(xlabel="mean score", title=found[0].name[:60])
    figure.savefig(file, dpi=130)


_STYLE = """body{font:15px system-ui;margin:2em;max-width:70em}table{border-collapse:collapse}td,th{padding:.2em .7em;
text-align:left;border-bottom:1px solid #ddd}td.n{text-align:right;font-variant-numeric:tabular-nums}
.bar{background:#c33;height:.8em;display:inline-block}del{background:#fdd}ins{background:#dfd;text-decoration:none}"""


def _page(found: Sequence[Evaluation]) -> str:
    parts = [f"<!doctype html><meta charset=utf-8><title>pagepack eval</title><style>{_STYLE}</style>"]
    for one in found:
        figures = one.figures()
        parts.append(f"<h1>{html.escape(one.name)}</h1><p>{html.escape(one.answers)}, {len(one.pages):,} pages judged")
        rates = ("character_error_rate", "word_error_rate", "recall", "precision", "worst_tenth_share")
        said = (f"{name.replace('_', ' ')} {figures[name]:.4f}" for name in rates if figures[name] is not None)
        parts.append(f"<p>{' · '.join(said)}")
        if one.items:
            parts.append("<table><tr><th>category<th>questions<th>not judged<th>mean score")
            for name, count, left, mean in one.categories():
                cells = f"<td class=n>{count:,}<td class=n>{left:,}<td class=n>{'–' if mean is None else f'{mean:.4f}'}"
                parts.append(f"<tr><td>{html.escape(name)}{cells}")
            parts.append("</table>")
        if not one.pages:
            continue
        parts.append("<table><tr><th>page<th>characters wrong<th><th>words wrong<th>recall<th>precision<th>doubt")
        parts += [_row(page) for page in one.pages[:_ROWS]]
        parts.append("</table>")
        if len(one.pages) > _ROWS:
            parts.append(f"<p>and {len(one.pages) - _ROWS:,} better ones")
    return "\n".join(parts) + "\n"


def _row(page: JudgedPage) -> str:
    measured = page.measured
    numbers = (measured.word_error_rate, measured.recall, measured.precision)
    bar = f"<span class=bar style='width:{measured.error_rate * 20:.1f}em'></span>"
    cells = "".join(f"<td class=n>{number:.3f}" for number in numbers)
    name = html.escape(f"{page.path}:{page.page_number}")
    row = f"<tr><td>{name}<td class=n>{measured.error_rate:.4f}<td>{bar}{cells}<td class=n>{page.doubt:.2f}"
    if page.changes:
        row += f"<tr><td colspan=7>{''.join(_marked(page))}"
    return row


def _marked(page: JudgedPage) -> list[str]:
    tags = {"deleted": "del", "inserted": "ins"}
    found = []
    for piece in page.changes:
        tag = tags.get(piece.change)
        text = html.escape(piece.text)
        found.append(f"<{tag}>{text}</{tag}> " if tag else f"{text} ")
    return found
