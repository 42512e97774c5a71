"""What a batch is made of: the arguments that `run` and `submit` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import (
    Choice,
    F,
    detail_option,
    engine_options,
    home_option,
    json_option,
    pages_option,
    path,
    path_or_url,
    sampling_options,
    schema_option,
    text_layer_option,
)
from schemas.prompts import CATALOGUE

if TYPE_CHECKING:
    from pipeline.ingest.selection import Selection


def batch_options(command: F) -> F:
    """Paths, which files of them, what is asked of each page, and by whom."""
    for option in (
        json_option,
        pages_option,
        click.option(
            "--check",
            type=Choice(["time", "content"]),
            help="How a known file is told to be unchanged: content reads it all anew.  [time, with its size]",
        ),
        click.option(
            "--ignore-unsupported",
            "ignores_unsupported",
            is_flag=True,
            help="Of files of a kind that is not read, only say how many there are.",
        ),
        click.option(
            "--attachments",
            is_flag=True,
            default=None,
            help="Files that are attached to PDFs are documents of their own.",
        ),
        click.option(
            "--all-frames",
            is_flag=True,
            default=None,
            help="Of an animated GIF, WebP or PNG, or several pictures in one JPEG: all, not the first.",
        ),
        click.option(
            "--exclude",
            multiple=True,
            metavar="GLOB",
            help="Not these files, nor folders with all below: '*.txt', drafts/. As --include; goes before it.",
        ),
        click.option(
            "--include",
            multiple=True,
            metavar="GLOB",
            help="Only these files: '*.pdf' is a name at any depth; '2024/*.pdf' or '/a.pdf', with a slash, a path "
            "below the folder or URL given. ** is any folders. A folder stands for all below it. Case counts. May be "
            "repeated.",
        ),
        sampling_options,
        schema_option,
        text_layer_option,
        detail_option,
        click.option(
            "--max-cost",
            metavar="NUMBER",
            help="With --engine endpoint and its prices: the batch is read until it has cost so much.",
        ),
        click.option("--batch", metavar="NAME", help="Name of the batch.  [the paths' names]"),
        click.option(
            "--prompt-file",
            "prompt_files",
            multiple=True,
            type=path,
            help="A prompt of your own; the file's name is the prompt's. It may begin with front matter.",
        ),
        click.option(
            "--prompt", "prompts", multiple=True, type=Choice(sorted(CATALOGUE)), help="May be repeated.  [ocr]"
        ),
        engine_options,
        home_option,
        click.argument("paths", nargs=-1, required=True, type=path_or_url),
    ):
        command = option(command)
    return command


def take_selection(flags: dict[str, Any]) -> Selection:
    """Out of a command's options, those that choose files; the others stay. Raises UsageError."""
    from pipeline.ingest.selection import select_files

    return select_files(
        flags.pop("include"), flags.pop("exclude"), flags.pop("ignores_unsupported"), flags.pop("check") == "content"
    )
