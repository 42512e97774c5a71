"""Whether a server answers, and knows the model: asked for its list of models, which costs nothing."""

from __future__ import annotations

import time
from contextlib import suppress

from pipeline.endpoints.catalogue import MISTRAL_OCR, entry_of
from pipeline.endpoints.client import Client, Server
from pipeline.endpoints.words import one_line
from pipeline.errors import PagepackError, UsageError
from pipeline.settings import Settings

_SECONDS = 20.0
_NAMED = 5


def look_at_server(settings: Settings) -> str:
    """One line for people. Raises PagepackError: it does not answer, refuses the key, or does not have the model."""
    assert settings.endpoint_url is not None
    server = Server(
        settings.endpoint_url, settings.endpoint_key, request_seconds=_SECONDS / 2, gone_seconds=_SECONDS / 4
    )
    client = Client(server)
    try:
        reply = client.start(client.send("GET", "/models", time.monotonic() + _SECONDS)).result()
    finally:
        client.close()
    models: list[str] = []
    with suppress(PagepackError, TypeError):  # a server without such a list is one, too
        models = [str(one["id"]) for one in reply.json().get("data") or [] if isinstance(one, dict) and "id" in one]
    wanted = settings.endpoint_model
    if wanted is None:
        return f"{client.name} answers; --endpoint-model NAME chooses one of {_some(models)}"
    if models and wanted not in models:
        raise UsageError(f"{client.name} answers and has no model {wanted!r}; it has {_some(models)}")
    is_chat = settings.endpoint_kind == "chat"
    entry = entry_of(wanted, settings.endpoint_profile) if is_chat else MISTRAL_OCR
    listed = "" if models else ", though it lists no models"
    return f"{client.name} answers{listed}; {wanted} is asked as the catalogue says of {entry.name}"


def _some(models: list[str]) -> str:
    names = [one_line(name, 60) for name in models[:_NAMED]]
    return (
        ", ".join([*names, f"and {len(models) - _NAMED:,} more"] if len(models) > _NAMED else names)
        or "none that it lists"
    )
