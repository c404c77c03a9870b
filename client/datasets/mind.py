"""MIND, the Microsoft News data set: lists of news that were shown, and what was clicked of them.

The folder `root` holds the unpacked folders train and dev (or MINDsmall_train and MINDsmall_dev, as they are packed),
each with behaviors.tsv and news.tsv, without headers and with quotes as letters; or these two files themselves.
A list of a folder test is without clicks and can't be learned from, so that the folder is left out, and this is said
(github.com/msnews/msnews.github.io/blob/master/assets/doc/introduction.md).

A row of behaviors.tsv is a slate: the list that was shown, in an order that tells nothing (it was shuffled), and 1 for
a click. Its column of history is what the person had clicked before, oldest first, without times; it is the same in all
rows of a person, since it ends where the lists begin (issues 19 and 20 there). So its clicks are put one hour apart
before the person's first list, and every later list has them in its history, then what was clicked of the lists
between. Should a later row have a history with more in it, what is new and was not clicked of a list until then is put
before that row, and after the row before. The times' zone is not told; they are taken as UTC.

The title is the title and the abstract, the category the category; the news have no pictures, prices or merchants.
There are no queries: they may be derived (`queries: derive`). The folders are joined and parts are by time; the
publishers' parts are `split: {validation_from: 2019-11-14, test_from: 2019-11-15}`, where dev is the test and the last
day of train the validation. Licence: Microsoft Research, for research that is not commercial. Citation: Wu et al. 2020,
MIND, ACL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.datasets._mind_lists import BEHAVIORS, COLUMNS, NEWS, Shown, clicked_before
from client.datasets._reading import values
from client.datasets._reading.behaviour import Vocabulary
from client.datasets._reading.blocks import Layout, Progress, blocks
from client.datasets._reading.files import text_lines
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import LONGEST_TITLE, Items, items_of
from client.datasets._reading.values import Names
from client.datasets._shaping.loader import loader
from client.datasets._shaping.settings import Shape
from client.datasets._source import Source
from mmrank.errors import DatasetError
from mmrank.settings import parse_table

HOLDS = "the folders train and dev of MIND, each with behaviors.tsv and news.tsv"
SIZE = "MINDsmall 50,000 people; MIND 1 million people and 161,000 news"
NEWS_COLUMNS = ("id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
TEST = "test"
_LOOKED_AT = 20


@dataclass(frozen=True, kw_only=True)
class Own:
    """The settings of this reader; see read."""

    folders: tuple[str, ...] = ()
    abstracts: bool = True


def read(
    root: Path,
    *,
    folders: Sequence[str] = (),
    abstracts: bool = True,
    shape: Shape,
    findings: Findings,
    now_days: float | None = None,
    progress: Progress | None = None,
) -> Source:
    """See the module. folders: which to join, all with a behaviors.tsv where empty. abstracts: whether they follow the
    titles. Raises DatasetError (file, line, what to do) for files that can't be used.
    """
    own: Own = parse_table(Own, {"folders": folders, "abstracts": abstracts}, "dataset")
    used = _labelled(root, own.folders or _folders(root), findings)
    items = _news(root, used, own.abstracts, findings, progress)
    names, histories = Vocabulary(), Names()
    shown = Shown(items, names, histories, findings, now_days)
    for folder in used:
        file, layout = str(Path(folder) / BEHAVIORS), Layout(format="tsv", header=COLUMNS)
        for block in blocks(root, file, COLUMNS, layout=layout, findings=findings, progress=progress):
            shown.take(folder, block)
    lists, history = shown.lists()
    return Source(
        name="mind",
        catalog=items.catalog,
        fields=items.fields,
        findings=findings,
        events=clicked_before(lists, history, histories.names(), items, findings),
        lists=(lists,),
        users=names.users.names(),
        user_column="user",
    )


def _folders(root: Path) -> tuple[str, ...]:
    if (root / BEHAVIORS).is_file():
        return (".",)
    found = sorted((path.parent.name for path in root.glob(f"*/{BEHAVIORS}")), key=lambda name: (TEST in name, name))
    parts = [name.rpartition("_")[2] for name in found]
    if len(set(parts)) < len(parts):
        raise DatasetError(f"{root}: several MIND in it ({', '.join(found)}); set dataset.folders to those of one.")
    if not found:
        raise DatasetError(f"{root}: no folder with {BEHAVIORS} in it; it should hold {HOLDS}.")
    return tuple(found)


def _labelled(root: Path, folders: Sequence[str], findings: Findings) -> tuple[str, ...]:
    """Those that say what was clicked."""
    used = []
    for folder in folders:
        file = str(Path(folder) / BEHAVIORS)
        if folder.endswith(TEST):
            first = zip(text_lines(root, file, findings=Findings()), range(_LOOKED_AT), strict=False)
            if not any(line.text.rstrip().endswith(("-0", "-1")) for line, _ in first):
                text = "lists without clicks, N1 in place of N1-0 or N1-1; the folder is left out"
                findings.add("note", "unlabelled", file, text, by_row=False)
                continue
        used.append(folder)
    if not used:
        raise DatasetError(f"{root}: no list with clicks, since {TEST} has none; put the folder train beside it.")
    return tuple(used)


def _news(root: Path, folders: Sequence[str], abstracts: bool, findings: Findings, progress: Progress | None) -> Items:
    """The news of all folders; most stand in several."""
    known: dict[str, int] = {}
    columns: dict[str, list[str]] = {"title": [], "category": [], "subcategory": []}
    wanted = ("id", "category", "subcategory", "title", *(("abstract",) if abstracts else ()))
    for folder in folders:
        file, layout = str(Path(folder) / NEWS), Layout(format="tsv", header=NEWS_COLUMNS)
        for block in blocks(root, file, wanted, layout=layout, findings=findings, progress=progress):
            texts = {name: values.strings(block[name]) for name in wanted}
            titles = values.joined([texts["title"], *([texts["abstract"]] if abstracts else [])], between=". ")
            texts["title"] = [title[:LONGEST_TITLE] for title in titles]
            for place, item_id in enumerate(texts["id"]):
                number = known.setdefault(item_id, len(known))
                line = (int(block.rows[place]),)
                if number < len(columns["title"]):
                    if columns["title"][number] != texts["title"][place]:
                        text = "other words than an earlier row has for the same news; the first stand"
                        findings.add("warning", "duplicate_item", file, text, lines=line)
                elif item_id and item_id.isprintable():
                    for name, column in columns.items():
                        column.append(texts[name][place])
                else:
                    del known[item_id]
                    findings.add("warning", "id", file, "no id; the row is left out", lines=line, lost=True)
    if not known:
        raise DatasetError(f"{NEWS}: no news in it.")
    return items_of(
        tuple(known),
        columns["title"],
        name="mind",
        file=NEWS,
        root=root,
        categories=columns["category"],
        fields={"subcategory": columns["subcategory"]},
    )


load = loader(read, holds=HOLDS)
