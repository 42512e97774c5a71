"""A try that brought no answer: whether another may, whether this request alone is refused, or everybody is.

Statuses mean what RFC 9110 and 6585 say, and what servers of models make of them: 429 is a limit that passes, unless
the quota of the account is used up; 402 and 529 are no standard.
"""

from __future__ import annotations

import ssl

import httpx2

from pipeline.endpoints.pace import LONGEST_RETRY_AFTER_SECONDS, retry_after_seconds
from pipeline.endpoints.words import error_words, shown_url
from pipeline.errors import EndpointGone, PageFailed, PagepackError

_PASSES = (408, 409, 425, 429)  # and all from 500 up
_LEAST_OF_A_KEY = 6  # characters: fewer, as `sk-`, may be a word
_FOR_ALL = (301, 302, 303, 307, 308, 401, 402, 404, 405)


class Passing(Exception):
    """A try failed for a reason that may pass."""

    def __init__(self, reason: str, *, is_busy: bool = False, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.is_busy = is_busy  # the server has too much to do: ask it less
        self.retry_after = retry_after


class Judge:
    """Of one server, known to people as `name`, set by what begins with `prefix`; its words are cleaned of the key."""

    def __init__(self, name: str, key: str | None, prefix: str) -> None:
        self._name = name
        self._key = key
        self._prefix = prefix

    def lost(self, error: Exception) -> Exception:
        """No whole answer came."""
        words = self._clean(str(error) or type(error).__name__)
        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
            causes.append(cause)
        if any(isinstance(one, ssl.SSLCertVerificationError) for one in causes):
            return EndpointGone(
                f"the certificate of {self._name} is not trusted ({words}); SSL_CERT_FILE names a file of authorities"
            )
        if isinstance(error, httpx2.InvalidURL | httpx2.UnsupportedProtocol | httpx2.LocalProtocolError):
            return EndpointGone(f"{self._name} cannot be asked: {words}; look at {self._prefix}_URL")
        return Passing(words)

    def refused(self, status: int, headers: httpx2.Headers, body: bytes, has_answered: bool) -> Exception:
        """An answer that is none, by its status. `has_answered`: others were served before."""
        said = self._clean(error_words(body))
        words = f"{status}{f': {said}' if said else ''}"
        if status == 429 and b"insufficient_quota" in body:
            return EndpointGone(f"the quota at {self._name} is used up ({words})")
        if status >= 500 or status in _PASSES:
            wait = retry_after_seconds(headers.get("retry-after"))
            return Passing(
                words, is_busy=True, retry_after=None if wait is None else min(wait, LONGEST_RETRY_AFTER_SECONDS)
            )
        if status in _FOR_ALL or (status == 403 and not has_answered):
            return EndpointGone(f"{self._name} refuses every request ({words}); {self._way_out(status, headers)}")
        return PageFailed(f"{self._name} refuses the page ({words})", cause="refused")

    def _way_out(self, status: int, headers: httpx2.Headers) -> str:
        if status < 400:
            to = shown_url(headers.get("location", "elsewhere"))
            return f"it sends on to {to}, which is not followed; is that {self._prefix}_URL?"
        if status in (401, 403):
            return f"is {self._prefix}_KEY its key?" if self._key else f"it wants a key: {self._prefix}_KEY"
        if status == 402:
            return "is there credit left?"
        return f"look at {self._prefix}_URL, which ends in /v1 mostly, and at {self._prefix}_MODEL"

    def cleaned(self, error: PagepackError) -> PagepackError:
        """The same, its message without the key, or as much of it as was left where words were cut."""
        error.args = (self._clean(str(error)),)
        return error

    def _clean(self, text: str) -> str:
        if not self._key:
            return text
        cut = range(len(self._key) - 1, _LEAST_OF_A_KEY - 1, -1)
        for part in (self._key, *(f"{self._key[:length]}…" for length in cut)):
            text = text.replace(part, "***")
        return text
