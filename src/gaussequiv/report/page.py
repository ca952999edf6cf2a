"""The page: one self-contained HTML file with the sentence, the figures (inline SVG), the table and the provenance."""

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gaussequiv import __version__
from gaussequiv.models.storage import atomic_write_text
from gaussequiv.report.batches import BatchComparison
from gaussequiv.report.grids import Compared, GridComparison, table

if TYPE_CHECKING:
    from gaussequiv.generators.verdicts import Verdict
    from gaussequiv.report.checks import Checks

KINDS = {"consistent": "", "violated": " departs", "inconclusive": " undecided"}
CHECKED = (
    "Fields and their worst direction beside the normal density (first samples), and every distance and effect with its 95 % "
    "interval in units of its tolerance."
)

CSS = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.verdict { border-left: 4px solid #3d8c5a; background: #f3f8f4; padding: .6rem 1rem; }
.verdict.departs { border-color: #c8553d; background: #fbf4f1; }
.verdict.undecided { border-color: #888; background: #f5f5f5; }
.warning { border-left: 4px solid #c9a227; padding: .2rem 1rem; }
figure { margin: 1rem 0; overflow-x: auto; } figure svg { max-width: 100%; height: auto; }
figcaption { color: #555; font-size: .9rem; }
.pair { display: flex; flex-wrap: wrap; gap: 1rem; } .pair figure { flex: 1 1 18rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .15rem .9rem; border-bottom: 1px solid #e3e3e3; }
td.word, th.word { text-align: left; }
tr.worst td { background: #fbf1da; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .82rem; }
"""


def write(
    path: str | Path,
    comparison: Compared,
    figures: Mapping[str, tuple[str, str]],
    details: Mapping[str, Any],
    twin: Compared | None = None,
    check: str | None = None,
) -> None:
    """Write the page of a comparison.

    Args:
        path: the HTML file.
        comparison: theory and simulation, of one problem (online or full batch) or of a sweep.
        figures: SVG text and caption by name; "curve" comes first, the others side by side below it.
        details: plain values shown at the end (experiment, model, versions).
        twin: the same on the Gaussian twin.
        check: what the last check said of the equivalence.

    """
    kind = "" if comparison.agrees else " departs"
    if comparison.agrees and not isinstance(comparison, GridComparison) and comparison.undecided:
        kind = " undecided"
    first = [_figure(*figures[name]) for name in figures if name == "curve"]
    others = [_figure(*figures[name]) for name in figures if name != "curve"]
    parts = [
        *_head(f"gaussequiv: {comparison.subject}"),
        f"<h1>Learning on {escape(comparison.subject)}: Gaussian theory and real training</h1>",
        f'<p class="verdict{kind}">{escape(comparison.summary)}</p>',
        *([f"<p>On the Gaussian twin: {escape(twin.summary)}</p>"] if twin is not None else []),
        *([f"<p>Whether the Gaussian equivalence holds (`gaussequiv check`): {escape(check)}</p>"] if check else []),
        *(f'<p class="warning">Warning: {escape(warning)}</p>' for warning in _warnings(comparison, twin)),
        *first,
        f'<div class="pair">{"".join(others)}</div>',
        f"<h2>Test error{f' at t = {comparison.theory.times[-1]:g}' if isinstance(comparison, GridComparison) else ''}</h2>",
        _table(*table(comparison, twin), _marked(comparison, "test_error")),
        *_losses(comparison, twin),
        *_doubts(comparison, twin),
        "<h2>How it was made</h2>",
        f"<pre>{escape(json.dumps(dict(details), indent=1, sort_keys=True))}</pre>",
        f"<p><small>gaussequiv {escape(__version__)}; theory of {_authors(comparison)}.</small></p></body></html>",
    ]
    atomic_write_text(Path(path), "\n".join(parts) + "\n")


def write_check(path: str | Path, checks: "Checks", drawn: Mapping[str, str]) -> None:
    """Write the page of a check: the verdicts, their figures, the battery, other weights, the certificate, the structure.

    Args:
        path: the HTML file.
        checks: of an experiment.
        drawn: SVG text by the names of the weights.

    """
    subject = f"Does the Gaussian equivalence hold for {checks.run.source.name}?"
    parts = [
        *_head(f"gaussequiv: {subject}"),
        f"<h1>{escape(subject)}</h1>",
        f'<p class="verdict{KINDS[checks.word.value]}">{escape(checks.summary)}</p>',
        *(f'<p class="warning">{escape(line)}</p>' for line in checks.remarks),
    ]
    for name, figure in drawn.items():
        found = checks.verdicts[name]
        parts += [
            f"<h2>{escape(name)}</h2>",
            f'<p class="verdict{KINDS[found.word.value]}">{escape(found.sentence)}</p>',
            _figure(figure, CHECKED),
            _battery(found),
        ]
    if checks.beside:
        rows = [[escape(name), escape(checks.verdicts[name].sentence)] for name in checks.beside]
        parts += ["<h2>Other weights, for comparison</h2>", _table(["weights", "verdict"], rows, None, words=(0, 1))]
    structure = [[escape(cell) for cell in row] for row in checks.structure_rows]
    parts += [
        "<h2>Bounds and structure</h2>",
        *(f"<p>{escape(line)}</p>" for line in checks.bounds),
        _table(["generator and weights", "", "for comparison"], structure, None, words=(0, 2)),
        "<h2>How it was made</h2>",
        f"<pre>{escape(json.dumps(dict(checks.run.details), indent=1, sort_keys=True))}</pre>",
        f"<p><small>gaussequiv {escape(__version__)}.</small></p></body></html>",
    ]
    atomic_write_text(Path(path), "\n".join(parts) + "\n")


def _battery(found: "Verdict") -> str:
    """The table of all statistics."""
    rows = []
    for f in found.findings:
        scale, unit = (100, " %") if f.relative else (1, "")
        rows.append(
            [
                f.name,
                f"{scale * f.value:.3g}{unit}",
                f"{scale * f.low:.3g} to {scale * f.high:.3g}",
                "" if f.tolerance is None else f"{scale * f.tolerance:g}{unit}",
                "" if f.tolerance is None else f.said,
                *map(escape, f.p_values),
            ]
        )
    names = ["statistic", "value", "95 % interval", "tolerance", "says", "p", "p, Holm"]
    return _table(names, rows, None, words=(0, 4))


def _head(title: str) -> list[str]:
    return [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body>",
    ]


def _warnings(comparison: Compared, twin: Compared | None) -> list[str]:
    """The warnings of all curves of the page, each once."""
    curves = [comparison.theory, comparison.practice, *([twin.practice] if twin is not None else [])]
    return list(dict.fromkeys(warning for curve in curves for warning in curve.warnings))


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _losses(comparison: Compared, twin: Compared | None) -> list[str]:
    """The table of the training loss, of full-batch learning."""
    if not isinstance(comparison, BatchComparison):
        return []
    other = twin if isinstance(twin, BatchComparison) else None
    marked = _marked(comparison, "train_loss")
    return ["<h2>Training loss</h2>", _table(*table(comparison, other, "train_loss"), marked)]


def _doubts(comparison: Compared, twin: Compared | None) -> list[str]:
    """The list of the points that have no value, or a doubtful one, of full-batch learning."""
    if not isinstance(comparison, BatchComparison):
        return []
    other = twin.practice.doubts if isinstance(twin, BatchComparison) else ()
    found = [*comparison.doubts, *(f"twin at {doubt}" for doubt in other)]
    items = "".join(f"<li>{escape(doubt)}</li>" for doubt in found)
    return [f"<h2>Points without a value, or with a doubtful one</h2><ul>{items}</ul>"] if found else []


def _marked(comparison: Compared, quantity: str) -> int | None:
    """The row of the largest |z|, if it is in the table of this quantity."""
    if not isinstance(comparison, BatchComparison):
        return comparison.worst
    name, index = comparison.worst
    return int(np.ravel_multi_index(index, comparison.theory.test_error.shape)) if name == quantity else None


def _table(names: list[str], texts: list[list[str]], marked: int | None, words: tuple[int, ...] = ()) -> str:
    """A table of HTML cells; columns of words begin at the left."""
    kinds = [' class="word"' if i in words else "" for i in range(len(names))]
    rows = []
    for i, cells in enumerate(texts):
        mark = ' class="worst"' if i == marked else ""
        rows.append(
            f"<tr{mark}>{''.join(f'<td{kind}>{cell}</td>' for kind, cell in zip(kinds, cells, strict=True))}</tr>"
        )
    head = "".join(f"<th{kind}>{name}</th>" for kind, name in zip(kinds, names, strict=True))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _authors(comparison: Compared) -> str:
    if isinstance(comparison, BatchComparison):
        return "Loureiro, Gerbelot, Cui, Goldt, Krzakala, Mézard and Zdeborová, arXiv:2102.08127"
    return "Goldt, Loureiro, Reeves, Krzakala, Mézard and Zdeborová, arXiv:2006.14709"
