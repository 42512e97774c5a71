"""What a person sees while a batch is worked on: a bar on a terminal, plain lines elsewhere. Writes to stderr only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from pipeline.store.task_counts import Progress


_LINE_SECONDS = 10.0


class ProgressBar:
    """Shows `Progress` values; the rate is of this run alone, so a resumed batch does not look fast."""

    def __init__(self, console: Console, unit: str = "pages") -> None:
        self._console = console
        self._unit = unit
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._first: tuple[float, int] | None = None
        self._next_line = time.monotonic() + _LINE_SECONDS
        if console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                console=console,
                transient=True,
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("starting", total=None, rate="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, message: str) -> None:
        """A line of its own, above the bar."""
        (self._bar.console if self._bar else self._console).print(
            message, markup=False, highlight=False, soft_wrap=True
        )

    def seen(self, files: int) -> None:
        """Files are being registered; on a terminal at each call, elsewhere every ten seconds."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=f"{counted(files, 'file')}…")
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_SECONDS
            self.say(f"{counted(files, 'file')} seen")

    def show(self, progress: Progress, files_seen: int | None, all_seen: bool, is_loading: bool = False) -> None:
        """The latest counts, of files where this process saw them; as often as `seen`."""
        ended = progress.tasks_done + progress.tasks_failed
        rate, left = self._rate(progress, ended)
        files = "reading" if files_seen is None else counted(files_seen, "file") + ("" if all_seen else "…")
        if is_loading and not ended:
            files += ", loading the model"
        if self._bar is not None and self._task is not None:
            total = progress.tasks_total or None
            self._bar.update(
                self._task, description=files, completed=ended, total=total, rate=f"{self._unit}  {rate:.2f}/s  {left}"
            )
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_SECONDS
            self.say(f"{files}, {ended:,} of {progress.tasks_total:,} {self._unit}, {rate:.2f} {self._unit}/s {left}")

    def _rate(self, progress: Progress, ended: int) -> tuple[float, str]:
        """Pages per second, and the time left in words; time counts from the first page on."""
        now = time.monotonic()
        if self._first is None or ended <= self._first[1]:
            self._first = (now, ended)
            return 0.0, ""
        rate = (ended - self._first[1]) / max(now - self._first[0], 0.1)
        left = (progress.tasks_pending + progress.tasks_leased) / rate
        more = "more than " if progress.documents_open else ""
        return rate, f"{more}{duration(left)} left" if left >= 1 else ""


def unit_of(prompts: Sequence[object]) -> str:
    """What a bar counts: with several prompts a page has several answers."""
    return "pages" if len(prompts) == 1 else "answers"


def counted(number: int, word: str) -> str:
    """`1 file`, `2,000 files`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """`42 s`, `12 min 5 s`, `3 h 20 min`, `2 d 4 h`."""
    whole = round(seconds)
    for name, size, smaller, step in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // step} {smaller}"
    return f"{whole} s"
