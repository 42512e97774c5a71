"""What an answer costs, by the prices that people set: no server says them, and they change."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class Prices:
    """In any one currency; None where a kind is not charged for, or nobody said."""

    input_per_million: float | None = None
    output_per_million: float | None = None

    @classmethod
    def of(cls, settings: Settings) -> Prices:
        return cls(settings.endpoint_input_price, settings.endpoint_output_price)

    def are_known(self) -> bool:
        return self.input_per_million is not None or self.output_per_million is not None

    def cost(self, prompt_tokens: int, output_tokens: int) -> float | None:
        """Of one answer; None where no price is known, or the server counted no tokens."""
        if not self.are_known() or not prompt_tokens + output_tokens:
            return None
        prices = (self.input_per_million or 0.0, self.output_per_million or 0.0)
        return (prompt_tokens * prices[0] + output_tokens * prices[1]) / 1_000_000
