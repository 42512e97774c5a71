"""What becomes of an engine's answer: the answer as it is stored, or why it is none."""

from __future__ import annotations

from dataclasses import replace

from pipeline.store.answers import ReadAnswer, UnfitAnswer
from pipeline.structured.fit import Misfit, fitted
from schemas.prompts import Prompt

_WAYS_OUT = {
    "length": "it was cut at {limit:,} tokens: `pagepack retry --cause length` allows twice as many; or ask for less",
    "deadline": "its time was over: raise PAGEPACK_PAGE_SECONDS, or ask for less",
    "repetition": "the model repeated itself: ask with a temperature, or bound the schema's lists and texts",
}


def held_to_schema(answer: ReadAnswer, prompt: Prompt) -> ReadAnswer | UnfitAnswer:
    """The answer, where it fits the prompt's JSON Schema or the prompt has none; else a failure that keeps it.

    A blank page has nothing to fill in, and is no failure.
    """
    if prompt.schema is None or (answer.finish_reason == "blank" and not answer.text):
        return answer
    try:
        return replace(answer, text=fitted(answer.text, prompt.schema))
    except Misfit as misfit:
        way_out = _WAYS_OUT.get(answer.finish_reason, "").format(limit=answer.output_tokens)
        cause = answer.finish_reason if way_out else "schema"
        said = f"the answer does not fit its JSON Schema: {misfit}"
        return UnfitAnswer(f"{said}; {way_out or 'its text is in the view attempts'}", answer, cause=cause)
