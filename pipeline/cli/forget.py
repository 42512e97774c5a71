"""Commands that take paths out of the archive: forget, prune."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import EXIT_DONE, EXIT_NOTHING, cli, home_option, json_option, one_line, path_or_url
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.settings import Settings
    from pipeline.store.forget_plan import Plan

_NAMED = 10


@cli.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=path_or_url)
@home_option
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
def forget(paths: tuple[str | Path, ...], home: Path | None, dry_run: bool, as_json: bool) -> int:
    """Take files, folders or URLs out of the archive: rows, texts, index and page images. Files on the disk stay.

    Content that lies at other paths too is kept for those. Counts of batches that have finished no longer hold what was
    forgotten. Nothing of it is left in a SQLite file; of a server, VACUUM and old backups are its owner's.
    """
    from pipeline.database.open import open_database
    from pipeline.ingest.forget import find_known, wipe_remains
    from pipeline.settings import load_settings
    from pipeline.store.forget_plan import plan

    settings = load_settings(home=home)
    db = open_database(settings, readonly=dry_run)
    if not dry_run and wipe_remains(db, settings):
        click.echo("wiped what an earlier call left in the file", err=True)
    return _Forgetting(settings, db, plan(db, find_known(db, paths)), as_json).end(dry_run)


@cli.command()
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=path_or_url)
@home_option
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def prune(folders: tuple[str | Path, ...], home: Path | None, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Forget the files that are gone from the disk: below these folders, else wherever a file was seen.

    Older contents of files that have changed since go too, wherever those lay: nobody can tell which.
    A folder that is missing or empty may be a disk that is not mounted: then nothing is pruned. Asks before it begins.
    """
    from pipeline.database.open import open_database
    from pipeline.ingest.forget import wipe_remains
    from pipeline.ingest.prune import find_gone
    from pipeline.settings import load_settings
    from pipeline.store.forget_plan import plan

    settings = load_settings(home=home)
    db = open_database(settings, readonly=dry_run)
    gone = find_gone(db, folders)
    if not dry_run and wipe_remains(db, settings):
        click.echo("wiped what an earlier call left in the file", err=True)
    made = plan(db, gone, all_older=True)
    if not gone and not made.documents:
        click.echo(json.dumps({"files": 0}) if as_json else "no file is gone from the disk; nothing to prune")
        return EXIT_DONE
    forgetting = _Forgetting(settings, db, made, as_json)
    if not dry_run and not yes and not forgetting.is_agreed():
        return EXIT_NOTHING
    return forgetting.end(dry_run)


@dataclass
class _Forgetting:
    settings: Settings
    db: Any
    plan: Plan
    as_json: bool

    def is_agreed(self) -> bool:
        if not sys.stdin.isatty():
            raise UsageError(
                "prune asks before it forgets, and nobody is there to answer; --yes answers, --dry-run asks"
            )
        click.echo(self._list("would be forgotten"), err=True)
        return click.confirm("Forget them?", err=True)

    def end(self, dry_run: bool) -> int:
        from pipeline.ingest.forget import forget, refusal, still_there

        if dry_run:
            self._say("would be forgotten")
            if why := refusal(self.db, self.settings, self.plan):
                click.echo(f"now it would be refused: {why}", err=True)
            return EXIT_DONE
        there = still_there(self.plan)
        forget(self.db, self.settings, self.plan)
        self._say("forgotten")
        if there:
            click.echo(
                f"{_files(there)} on the disk still: a run or submit over the folder takes what it finds", err=True
            )
        if self.db.dialect != "sqlite":
            click.echo(
                f"{self.db.name} keeps remains of deleted rows until VACUUM, and in logs and backups; those are its "
                "owner's to remove",
                err=True,
            )
        return EXIT_DONE

    def _say(self, done: str) -> None:
        if not self.as_json:
            click.echo(self._list(done))
            return
        counts = {
            "files": len(self.plan.sources),
            "documents": len(self.plan.documents),
            "pages": sum(one.num_pages for one in self.plan.documents),
            "page_images": self.plan.num_images,
            "paths": list(self.plan.sources.values()),
            "kept": self.plan.kept,
            "older_documents": self.plan.num_older,
            "older_documents_kept": self.plan.num_older_kept,
        }
        click.echo(json.dumps(counts, ensure_ascii=False))

    def _list(self, done: str) -> str:
        plan = self.plan
        pages = sum(one.num_pages for one in plan.documents)
        lines = [f"  {one_line(path)}" for path in list(plan.sources.values())[:_NAMED]]
        if len(plan.sources) > _NAMED:
            lines.append(f"  … and {len(plan.sources) - _NAMED:,} more")
        lines.append(
            f"{done}: {_count(len(plan.sources), 'file')}, {_count(len(plan.documents), 'document')}, "
            f"{_count(pages, 'page')}, {_count(plan.num_images, 'page image')}"
        )
        if plan.kept:
            path, other = next(iter(plan.kept.items()))
            lines.append(
                f"kept, for it lies at another path too: the text of {_count(len(plan.kept), 'file')}, such as "
                f"{one_line(path)} (also {one_line(other)})"
            )
        if plan.num_older:
            lines.append(f"with {_count(plan.num_older, 'older content')} of files that have changed since")
        if plan.num_older_kept:
            prune = "prune" if self.db.dialect == "sqlite" else "prune FOLDER"
            lines.append(
                f"kept, for nobody can tell which file's: {_count(plan.num_older_kept, 'older content')} of files that "
                f"have changed since; `pagepack {prune}` forgets all such"
            )
        return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _files(number: int) -> str:
    return f"{number:,} {'file is' if number == 1 else 'files are'}"
