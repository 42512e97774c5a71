"""Whether a server serves anybody: when the last answer came, and since when none did. Pure; times are of one clock."""

from __future__ import annotations

from dataclasses import dataclass

_GONE_AT_START_SECONDS = 30.0  # a server that never answered: a mistaken address, mostly
_LONG_SECONDS = 15.0


@dataclass(slots=True)
class Health:
    gone_seconds: float
    """Without any answer so long, though asked, the server counts as gone."""
    request_seconds: float
    """A failure may take so long to be one."""
    answered_at: float | None = None
    failing_since: float | None = None  # the first failure that no answer followed
    failed_at: float = 0.0

    def answered(self, now: float) -> bool:
        """Whether that ends a long silence."""
        was_silent = self.failing_since is not None and now - self.failing_since > _LONG_SECONDS
        self.answered_at, self.failing_since = now, None
        return was_silent

    def failed(self, now: float) -> None:
        was_left_alone = now - self.failed_at > self.gone_seconds + self.request_seconds
        self.failed_at = now
        if self.failing_since is None or was_left_alone:
            self.failing_since = now

    def has_answered_since(self, moment: float) -> bool:
        return self.answered_at is not None and self.answered_at >= moment

    def is_gone(self, now: float) -> bool:
        patience = self.gone_seconds
        if self.answered_at is None:
            patience = min(patience, _GONE_AT_START_SECONDS)
        return self.failing_since is not None and now - self.failing_since >= patience
