"""What is taken of the files at a batch's paths, and what a walk over them has met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.documents.globs import ALL, Globs, parse_globs


@dataclass(frozen=True, slots=True)
class Selection:
    """`globs` say what a batch is made of, as its paths do. Files of a kind that is not read are told or not, and what
    is known of a file is trusted while its size and time are the same, or not: that is no part of what is asked."""

    globs: Globs = ALL
    ignores_unsupported: bool = False
    checks_content: bool = False

    def identity(self) -> list[str]:
        """For the key of a batch; nothing where all files are meant, so that older batches keep theirs."""
        return self.globs.words()


ALL_FILES = Selection()


@dataclass(frozen=True, slots=True)
class Seen:
    """How many files a walk has met so far."""

    num_files: int  # that are rows of the batch now
    num_ignored: int  # of a kind that is not read


def select_files(
    include: Sequence[str], exclude: Sequence[str], ignores_unsupported: bool, checks_content: bool = False
) -> Selection:
    """From a command's options. Raises UsageError where one is no pattern."""
    globs = Globs(parse_globs("--include", include), parse_globs("--exclude", exclude))
    return Selection(globs, ignores_unsupported, checks_content)
