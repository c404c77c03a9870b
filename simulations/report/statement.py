"""statement.html and statement.md: what a run promises, to whom, by how much, and what not; for readers of contracts.

From result.json alone. Both files have the same sentences; no term stands without its explanation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from simulations._folder import write_text
from simulations.report import _page, read_result
from simulations.report._statement_words import Promise, not_protected, sections_of

STYLE = """<style>
.statement { max-width:46rem; margin:0 auto } .statement p, .statement li { font-family:Georgia,"Times New Roman",
  "Noto Serif","Noto Serif CJK SC",serif } .statement li { margin:.35rem 0 } .statement table { width:100% }
.statement td { white-space:normal; text-align:left } .statement th { text-align:left; white-space:normal }
.loud { border:3px solid #b42318; color:#b42318; padding:.9rem 1.1rem; margin:1.2rem 0 }
.statement .loud p { font-family:inherit; max-width:none; margin:.35rem 0 }
.statement .loud .shout { font-weight:800; font-size:1.6rem; line-height:1.25 }
@media print { @page { margin:20mm } main { padding:0; max-width:none } h2 { break-after:avoid }
  tr, li { break-inside:avoid } }
</style>"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A heading and what stands below it: paragraphs, then a table (its header first), then points."""

    heading: str
    paragraphs: Sequence[str] = ()
    table: Sequence[Sequence[str]] = ()
    points: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Statement:
    """The whole text, before it has a form. loud: in large letters, above everything."""

    title: str
    loud: Sequence[str]
    parts: Sequence[Part]


def write_statement(run: Path) -> tuple[Path, Path]:
    """Make statement.html and statement.md in a finished run's folder. Raises ConfigError where there is none."""
    statement = statement_of(read_result(run))
    pages = run / "statement.html", run / "statement.md"
    write_text(pages[0], as_html(statement))
    write_text(pages[1], as_markdown(statement))
    return pages


def statement_of(result: Mapping[str, Any]) -> Statement:
    """The text from result.json's content."""
    promise = Promise.of(result)
    parts = [Part(**part) for part in sections_of(promise)]
    return Statement(
        title=f"Privacy statement: {result['run']}",
        loud=loud(promise),
        parts=[*parts, Part(heading="What is not protected", points=not_protected(promise)), _provenance(result)],
    )


def loud(promise: Promise) -> list[str]:
    """What nobody may overlook: that it was a simulation, or that there is no promise at all."""
    lines = []
    if promise.throwaway or promise.seeded or promise.noise_cohort_size is not None:
        lines.append("THIS IS A SIMULATION: NO SUCH PROMISE WAS MADE TO ANYBODY.")
    if promise.throwaway:
        lines.append(
            "Its record of what was spent (the ledger) was thrown away with the run: other runs on the same data are "
            "not counted."
        )
    if promise.seeded and promise.private:
        lines.append(
            "Its noise came from a known seed and can be subtracted by whoever knows it: the figures are those that "
            "the same plan would have with secret noise."
        )
    if promise.noise_cohort_size is not None and promise.private:
        lines.append(
            f"Its noise is that of rounds with {promise.noise_cohort_size:,} clients, scaled to the few that were "
            "simulated: the figures are those of such a federation, not of this one."
        )
    if not promise.private:
        lines.append("THIS RUN HAD NO DIFFERENTIAL PRIVACY: IT PROMISES NOTHING.")
    return lines


def as_html(statement: Statement) -> str:
    """One file that needs nothing else and prints well."""
    body = [STYLE, '<div class="statement">', f"<h1>{escape(statement.title)}</h1>"]
    if statement.loud:
        shouted = (_page.paragraph(line, kind="shout" if line.isupper() else "") for line in statement.loud)
        body.append(f'<div class="loud">{"".join(shouted)}</div>')
    for part in statement.parts:
        table = ""
        if part.table:
            table = _page.table(
                part.table[0], [[escape(cell) for cell in line] for line in part.table[1:]], kind="words"
            )
        points = f"<ul>{''.join(f'<li>{escape(point)}</li>' for point in part.points)}</ul>" if part.points else ""
        body.append(_page.section(part.heading, *(_page.paragraph(text) for text in part.paragraphs), table, points))
    return _page.page(statement.title, [*body, "</div>"])


def as_markdown(statement: Statement) -> str:
    """The same as Markdown."""
    lines = [f"# {_plain(statement.title)}", ""]
    if statement.loud:
        for line in statement.loud:
            lines += [f"> # {_plain(line)}" if line.isupper() else f"> {_plain(line)}", ">"]
        lines[-1] = ""
    for part in statement.parts:
        lines += [f"## {_plain(part.heading)}", ""]
        for paragraph in part.paragraphs:
            lines += [_plain(paragraph), ""]
        if part.table:
            header, *rows = part.table
            lines += [_row(header), "|" + "---|" * len(header), *map(_row, rows), ""]
        if part.points:
            lines += [*(f"- {_plain(point)}" for point in part.points), ""]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """One line whose marks stand for themselves: a run's name is text, not markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>#" else letter for letter in " ".join(text.split()))


def _provenance(result: Mapping[str, Any]) -> Part:
    data = result["dataset"]
    facts = [
        ("what", "value"),
        ("run", result["run"]),
        (
            "data set",
            f"{data['name']}, version {data['version']}" + (", made up by a program" if data["synthetic"] else ""),
        ),
        ("configuration (SHA-256)", result["config_sha256"]),
        ("program's version", result["commit"] or "unknown"),
        ("engine", result["engine"]),
    ]
    return Part(
        heading="Where these figures come from",
        paragraphs=(
            "Every figure on this page was computed by the program from the settings that ran and the charges that "
            "were made, and stands in the run's result.json.",
        ),
        table=facts,
    )
