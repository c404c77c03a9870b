"""The skeleton of every page: one file, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { --ink:#1d2430; --soft:#667085; --line:#e4e7ec; --tint:#f6f7f9; --accent:#2456c9; color-scheme:light }
* { box-sizing:border-box }
body { margin:0; color:var(--ink); background:#fff; font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
  "Noto Sans","Noto Sans CJK SC","PingFang SC","Microsoft YaHei",sans-serif; -webkit-text-size-adjust:100% }
main { max-width:1000px; margin:0 auto; padding:2.2rem 1.25rem 4rem }
h1 { font-size:1.75rem; line-height:1.25; margin:0 0 .4rem; letter-spacing:-.01em }
h2 { font-size:1.2rem; margin:2.6rem 0 .5rem; padding-top:1.1rem; border-top:1px solid var(--line) }
h3 { font-size:1rem; margin:1.4rem 0 .3rem }
p { margin:.45rem 0; max-width:46rem } .soft, figcaption, small { color:var(--soft) }
.lead { font-size:1.06rem } code { font:.9em ui-monospace,SFMono-Regular,Menlo,monospace; overflow-wrap:anywhere }
.banner { background:#fff6e5; border:1px solid #f2d396; border-radius:8px; padding:.6rem .9rem; margin:1rem 0;
  max-width:none }
.cards { display:grid; grid-template-columns:repeat(auto-fit,minmax(150px,1fr)); gap:.7rem; margin:1.2rem 0 }
.card { border:1px solid var(--line); border-radius:10px; padding:.75rem .9rem; background:var(--tint) }
.card b { display:block; font-size:1.5rem; line-height:1.2; font-variant-numeric:tabular-nums; letter-spacing:-.01em }
.card span { font-size:.84rem; color:var(--soft) }
.scroll { overflow-x:auto; margin:.7rem 0 }
table { border-collapse:collapse; font-size:.9rem; font-variant-numeric:tabular-nums; min-width:60% }
th, td { text-align:right; padding:.34rem .7rem; border-bottom:1px solid var(--line); white-space:nowrap }
th { color:var(--soft); font-weight:600 } th:first-child, td:first-child { text-align:left; padding-left:0 }
td small { display:block; font-size:.78rem } td:first-child small { white-space:normal; max-width:24rem }
tr.best td { font-weight:600 } .words td { white-space:normal; text-align:left } .words td:first-child { width:12rem }
.plot { margin:.6rem 0 } .plot svg { display:block; height:auto; font-family:inherit }
.plot text { font-family:inherit !important } .narrow { display:none }
.dot { display:inline-block; width:.7em; height:.7em; border-radius:50%; margin-right:.5em }
.query { border:1px solid var(--line); border-radius:12px; padding:.9rem 1rem; margin:1rem 0 }
.query h3 { margin:0 0 .2rem } .strip { display:grid; gap:.55rem; margin:.3rem 0 .8rem;
  grid-template-columns:repeat(auto-fill,minmax(104px,1fr)) }
.item { font-size:.75rem; line-height:1.3; border:1px solid var(--line); border-radius:8px; overflow:hidden }
.item.hit { border-color:#0f766e; box-shadow:0 0 0 1px #0f766e }
.item img { width:100%; aspect-ratio:1; object-fit:contain; display:block; background:#fff }
.item .none { aspect-ratio:1; display:grid; place-items:center; background:var(--tint); color:var(--soft) }
.item div { padding:.3rem .4rem .4rem } .item em { font-style:normal; color:#0f766e; font-weight:600 }
.item .title { display:-webkit-box; -webkit-line-clamp:2; -webkit-box-orient:vertical; overflow:hidden }
.strip.small { grid-template-columns:repeat(auto-fill,minmax(64px,1fr)); max-width:52rem }
details { margin:.6rem 0 } summary { cursor:pointer; color:var(--accent) }
pre { background:var(--tint); border:1px solid var(--line); border-radius:8px; padding:.8rem; overflow-x:auto;
  font-size:.8rem }
@media (max-width:640px) { main { padding:1.3rem .9rem 3rem } h1 { font-size:1.4rem } .wide { display:none }
  .narrow { display:block } .cards { grid-template-columns:1fr 1fr } .card b { font-size:1.25rem }
  td:first-child small { display:none }
  .words td:first-child { width:8rem } th, td { padding:.34rem .5rem } .strip { grid-template-columns:repeat(3,1fr) }
  .strip.small { grid-template-columns:repeat(5,1fr) } }
@media print { .query, .plot { break-inside:avoid } details:not([open]) > *:not(summary) { display:block } }
"""


def page(title: str, sections: Iterable[str]) -> str:
    """A whole HTML document. `sections` is HTML already; `title` is plain text."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def section(heading: str, *parts: str) -> str:
    """A heading and what stands below it; nothing where there is nothing below."""
    body = "".join(parts)
    return f"<section><h2>{escape(heading)}</h2>{body}</section>" if body else ""


def paragraph(text: str, *, kind: str = "") -> str:
    """Plain text as a paragraph."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def cards(pairs: Sequence[tuple[str, str]]) -> str:
    """(figure, what it is) in boxes."""
    boxes = (f'<div class="card"><b>{escape(figure)}</b><span>{escape(name)}</span></div>' for figure, name in pairs)
    return f'<div class="cards">{"".join(boxes)}</div>'


def table(header: Sequence[str], lines: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """`lines` hold HTML cells; `header` is plain text."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in lines)
    top = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f'<div class="scroll"><table class="{kind}">{top}<tbody>{body}</tbody></table></div>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Plain names and values in two columns."""
    return table((), ((escape(name), escape(value)) for name, value in pairs), kind="words")
