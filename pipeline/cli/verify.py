"""`pagepack verify`: whether the packed engine computes what it should with a checkpoint's own weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pipeline.cli.options import EXIT_DONE, EXIT_FAILED, cli, json_option, path
from pipeline.errors import UsageError


@cli.command()
@click.argument("paths", nargs=-1, type=path)
@click.option("--model", type=path, help="The checkpoint folder, in Mistral's format.")
@click.option("--pages", type=click.IntRange(1, 100), default=6, show_default=True, help="So many sample pages.")
@click.option("--tokens", type=click.IntRange(1, 64), default=32, show_default=True, help="Of each answer.")
@click.option("--out", type=path, default="pagepack-verify.json", show_default=True, help="Where the findings go.")
@json_option
def verify(paths: tuple[Path, ...], model: Path | None, pages: int, tokens: int, out: Path, as_json: bool) -> int:
    """Check the Pixtral engine on a checkpoint's own weights.

    Sample pages, drawn or the first of PATHS, are read by the packed engine alone and in company, and by
    mistral-inference one at a time, where it is installed. Says how many tokens are equal and how far logits lie
    apart. Exit code 1: they differ. The file has no text but that of drawn pages.
    """
    from pipeline.settings import load_settings
    from pipeline.supervisor.verify import verify_model

    if out.is_dir() or not out.parent.is_dir():  # else it would be found out when all is computed
        raise UsageError(f"--out {out} cannot be written: it is a folder, or lies in none; name another file")
    found = verify_model(load_settings(model=model), [one.absolute() for one in paths], pages, tokens)
    try:
        out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror}; name another file") from error
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
    else:
        for line in _lines(found):
            click.echo(line)
        click.echo(f"findings in {out}: send it with a report; it holds no text of your pages")
    return EXIT_FAILED if found["verdict"] == "differs" else EXIT_DONE


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"{found['model']}, {found['dtype']} on {found['device']}, torch {found['torch']}", found["path"]]
    for page in found["pages"]:
        company, reference = page["alone_and_in_company"], page["reference"]
        same = "bit for bit the same" if company["bitwise"] else _agreement(company)
        theirs = "" if reference is None else f"; mistral-inference: {_agreement(reference)}"
        lines.append(f"  {page['name']}: alone and in company {same}{theirs}")
    reference = found["reference"]
    if reference["reason"] is not None:
        lines.append(f"not compared with mistral-inference: {reference['reason']}")
    lines += [f"  {reason}" for reason in found["reasons"]]
    return [*lines, f"verdict: {found['verdict']} ({found['seconds']:.0f} s)"]


def _agreement(one: dict[str, Any]) -> str:
    return (
        f"{one['tokens_equal']} of {one['tokens']} tokens equal, logits at most {one['largest_difference']:.3g} apart "
        f"(spread {one['spread_of_logits']:.3g})"
    )
