"""What an answer costs, by the prices that people set: no server says them, and they change."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class Prices:
    """In any one currency; None where a kind is not charged for, or nobody said."""

    input_per_million: float | None = None
    output_per_million: float | None = None
    pages_per_thousand: float | None = None

    @classmethod
    def of(cls, settings: Settings) -> Prices:
        return cls(settings.endpoint_input_price, settings.endpoint_output_price, settings.endpoint_page_price)

    def are_known(self) -> bool:
        return self != Prices()

    def cost(self, prompt_tokens: int, output_tokens: int, pages: int = 0) -> float | None:
        """Of one answer; None where no price is known, or the server counted nothing."""
        of_tokens = self.input_per_million is not None or self.output_per_million is not None
        is_counted = (of_tokens and prompt_tokens + output_tokens) or (self.pages_per_thousand is not None and pages)
        if not is_counted:
            return None
        tokens = prompt_tokens * (self.input_per_million or 0.0) + output_tokens * (self.output_per_million or 0.0)
        return tokens / 1_000_000 + pages * (self.pages_per_thousand or 0.0) / 1_000
