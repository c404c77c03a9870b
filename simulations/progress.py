"""What a person sees while a run works: a bar for each phase that goes on, and a line for each that is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

Update = Callable[..., None]
"""update(done, total=None, note=None, detail=None): where the phase stands; what is left out stays as it was.

note: what is worth a line of its own in a log. detail: what changes all the time, for a terminal only.
"""


class Display:
    """Phases on `console`; None shows nothing. Where the console is no terminal, each new note is a line.

    seconds: time by kind of phase; a phase inside another counts for its own kind alone.
    """

    def __init__(self, console: Console | None) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}
        self._inner: list[float] = []
        self._bars: Progress | None = None

    @contextmanager
    def phase(self, name: str, *, kind: str, total: int | None = None) -> Iterator[Update]:
        """Shown while it lasts; its time is added to `seconds[kind]`."""
        started = time.perf_counter()
        self._inner.append(0.0)
        try:
            with self._shown(name, total) as update:
                yield update
        finally:
            elapsed = time.perf_counter() - started
            self.seconds[kind] = self.seconds.get(kind, 0.0) + elapsed - self._inner.pop()
            if self._inner:
                self._inner[-1] += elapsed

    @contextmanager
    def _shown(self, name: str, total: int | None) -> Iterator[Update]:
        if self.console is None:
            yield silent
        elif self.console.is_terminal:
            with self._live() as bars:
                task = bars.add_task(name, total=total, note="", detail="")
                yield lambda done, total=None, note=None, detail=None: bars.update(
                    task, completed=done, **_given(total=total, note=note, detail=detail)
                )
                _finish(bars, task)
        else:
            started = time.perf_counter()
            yield self._lines(name)
            self.console.print(f"{name}: done in {time.perf_counter() - started:.1f} s", highlight=False)

    @contextmanager
    def _live(self) -> Iterator[Progress]:
        """The bars on the screen; the outermost phase draws them."""
        if self._bars is not None:
            yield self._bars
            return
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="cyan"),
            TextColumn("{task.fields[detail]}", style="dim"),
            console=self.console,
            transient=True,
        )
        try:
            with self._bars:
                yield self._bars
        finally:
            self._bars = None

    def _lines(self, name: str) -> Update:
        last = ""

        def update(done: float, total: int | None = None, note: str | None = None, detail: str | None = None) -> None:
            nonlocal last
            if note and note != last and self.console is not None:
                last = note
                self.console.print(f"{name}: {note}", highlight=False)

        return update


class Pace:
    """How many of each kind are done a second, since the kind's first call: what was done by then took no time."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._first: dict[str, tuple[float, float]] = {}

    def __call__(self, kind: str, done: float) -> str:
        """For a phase's `detail`: "312 a second"; nothing before there is a rate."""
        now = time.perf_counter()
        since, before = self._first.setdefault(kind, (now, done))
        return f"{(done - before) / (now - since):,.0f} {self._unit} a second" if done > before and now > since else ""


def silent(done: float, total: int | None = None, note: str | None = None, detail: str | None = None) -> None:
    """An Update that nobody sees."""


def _finish(bars: Progress, task_id: TaskID) -> None:
    """A finished bar makes room for a line that stays."""
    task = next(task for task in bars.tasks if task.id == task_id)
    note = f"  [cyan]{task.fields['note']}[/cyan]" if task.fields["note"] else ""
    bars.console.print(
        f"[green]✓[/green] {task.description}  [dim]{task.elapsed or 0:.1f} s[/dim]{note}", highlight=False
    )
    bars.remove_task(task_id)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
