"""`mmrank events`: a client's own store of events: append a log, look, export, forget a person, let old ones go."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmrank.errors import DatasetError
from simulations._terminal import Json, show

if TYPE_CHECKING:
    from client.event_store import EventStore

events_app = typer.Typer(
    help="A client's own store of events: append a shop's log, look, export, forget a person, let old events go.",
    epilog="Example: mmrank events append events.sqlite log.csv",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Store = Annotated[Path, typer.Argument(help="The store's file, such as /var/lib/mmrank/shop-1/events.sqlite.")]
User = Annotated[
    str, typer.Option("--user", help="The person's id; - reads it from stdin, so that no shell's history keeps it.")
]


@events_app.command("append", epilog="Example: mmrank events append events.sqlite log.csv")
def events_append(
    store: Store,
    file: Annotated[
        Path,
        typer.Argument(help="Events in .csv with a header, or .jsonl: user, item, time, type, ..."),
    ],
    json: Json = False,
) -> None:
    """Append a log, all of it or nothing; what is there already is not added twice.

    time: ISO 8601 with its offset, or days since 1970-01-01 UTC. type: shown, view, click, cart or purchase. slate:
    the impression's id, which a shown item needs. position: 0 the top. propensity, key: may be left out, as query.
    """
    from client.event_store import EventStore, read_events

    added = EventStore(store).append(read_events(file))
    show({name: getattr(added, name) for name in ("added", "known", "expired", "forgotten")}, json)


@events_app.command("show", epilog="Example: mmrank events show events.sqlite")
def events_show(store: Store, json: Json = False) -> None:
    """How many events, people and slates it holds, from when to when, and for how long; never who or what."""
    standing = _existing(store).standing()
    found: dict[str, Any] = {
        name: getattr(standing, name) for name in ("events", "people", "slates", "by_type", "retention_days")
    }
    times = {"oldest": _moment(standing.oldest_days), "newest": _moment(standing.newest_days)}
    rest = {name: getattr(standing, name) for name in ("forgotten", "traces", "bytes")}
    show({**found, **times, **rest}, json)


@events_app.command("export", epilog="Example: mmrank events export events.sqlite --out person.jsonl --user 007")
def events_export(
    store: Store,
    out: Annotated[Path, typer.Option(help="A file to write, .jsonl or .csv, readable by its owner alone.")],
    user: Annotated[
        str | None, typer.Option("--user", help="One person's events alone; - reads the id from stdin.")
    ] = None,
    json: Json = False,
) -> None:
    """Write events to a file: all, or what is kept of one person who asks for it."""
    count = _existing(store).export(out, user=None if user is None else _user(user))
    show({"out": str(out), "events": count}, json)


@events_app.command("forget", epilog="Example: mmrank events forget events.sqlite --user 007")
def events_forget(store: Store, user: User, json: Json = False) -> None:
    """Delete all of one person's events without a trace, leave out what comes later, and say what that can't undo."""
    forgotten = _existing(store).forget(_user(user))
    if json:
        show({"events": forgotten.events, "cannot_undo": list(forgotten.note)}, json)
        return
    typer.echo(f"{forgotten.events} events deleted; later ones are left out. What that does not undo:")
    for sentence in forgotten.note:
        typer.echo(f"- {sentence}")


@events_app.command("readmit", epilog="Example: mmrank events readmit events.sqlite --user 007")
def events_readmit(
    store: Store,
    user: User,
    since: Annotated[
        str | None, typer.Option(help="Take events from this time on, 0 for all of them; from now on by default.")
    ] = None,
    json: Json = False,
) -> None:
    """Take events of a forgotten person again: one who comes back, or was forgotten by mistake (--since 0)."""
    found = _existing(store).readmit(_user(user), since=None if since is None else _days(since))
    if not json and not found:
        typer.echo("Nobody of that id was forgotten.")
        return
    show({"readmitted": found}, json)


@events_app.command("expire", epilog="Example: mmrank events expire events.sqlite --days 90")
def events_expire(
    store: Store,
    days: Annotated[
        float | None, typer.Option(help="The store's limit from now on; left out, the one that it has.")
    ] = None,
    json: Json = False,
) -> None:
    """Delete what is older than the limit without a trace; older events are then left out of what is appended."""
    found = _existing(store, retention_days=days)
    deleted = found.expire()
    show({"deleted": deleted, "retention_days": found.standing().retention_days}, json)


def _existing(path: Path, *, retention_days: float | None = None) -> EventStore:
    """The store, if there is one: a path with a slip must not make another."""
    from client.event_store import EventStore

    store = EventStore(path, retention_days=retention_days)
    if not store.exists():
        raise DatasetError(f"{path} is no store: there is no such file; mmrank events append makes one.")
    return store


def _user(given: str) -> str:
    return sys.stdin.readline().rstrip("\r\n") if given == "-" else given


def _days(text: str) -> float:
    from client.event_store import days_of

    try:
        return days_of(text)
    except ValueError as error:
        raise DatasetError(
            f"Expected --since={text} to be ISO 8601 with its offset (2026-03-01T12:30:00Z), or days since 1970-01-01."
        ) from error


def _moment(days: float | None) -> str | None:
    from client.event_store import moment_of

    return None if days is None else moment_of(days)
