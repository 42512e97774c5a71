"""Made-up text for drawn pages: sentences of English and Chinese, names, dates and sums, all from one generator.

Sentences are put together from parts, so that no reader can know them by heart, and words are common ones of three to
fourteen letters. Nothing is taken from a book or from the network.
"""

from __future__ import annotations

import random
from pathlib import Path


def _lists() -> dict[str, list[str]]:
    _, *blocks = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").split("\n\n")
    parted = (" ".join(block.split()).partition(": ") for block in blocks)
    return {name: items.split("; ") for name, _, items in parted}


WORDS = _lists()


class Words:
    """A source of text; the same seed gives the same text."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def _pick(self, name: str) -> str:
        return self.rng.choice(WORDS[name])

    def sentence(self) -> str:
        pick = self._pick
        form = self.rng.randrange(7)
        who = f"the {pick('adjectives')} {pick('nouns')}"
        what = f"the {pick('nouns')}" + f" of {pick('places')}"
        if form == 0:
            said = f"{who} was {pick('verbs')} {pick('when')}, and {what} {pick('where')} was {pick('verbs')} too"
        elif form == 1:
            said = f"{pick('when')} {self.name()} {pick('verbs')} {who} {pick('where')}"
        elif form == 2:
            said = f"{self.number()} of the {pick('adjectives')} pieces were {pick('verbs')}; {what} was not"
        elif form == 3:
            said = (
                f"costs rose by {self.rng.randint(1, 9)}.{self.rng.randint(0, 9)} %, while {who} {pick('verbs')} {what}"
            )
        elif form == 4:
            said = f"“{who} has never been {pick('verbs')},” says {self.name()}, “and {what} is {pick('adjectives')}”"
        elif form == 5:
            said = f"{what} ({self.date()}) remained {pick('adjectives')}: nobody {pick('verbs')} it {pick('when')}"
        else:
            said = (
                f"{who} {pick('verbs')} {what} {pick('where')}, which is {pick('adjectives')} and {pick('adjectives')}"
            )
        start = said[0] if said[0] != "“" else said[:2]
        return start.upper() + said[len(start) :] + "."

    def paragraph(self, num_words: int) -> str:
        said = self.sentence()
        while len(said.split()) < num_words:
            said += " " + self.sentence()
        return said

    def headline(self, num_words: int = 4) -> str:
        parts = [self._pick("adjectives").title(), self._pick("nouns"), "of", self.place()]
        if num_words > 4:
            parts += [self._pick("verbs"), *self._pick("when").split()]
        return " ".join(parts[: max(num_words, 2)])

    def item(self) -> str:
        """A few words, as a list or a table has them."""
        return f"{self._pick('adjectives')} {self._pick('nouns')}".capitalize()

    def name(self) -> str:
        return f"{self._pick('first_names')} {self._pick('last_names')}"

    def place(self) -> str:
        return self._pick("places")

    def date(self) -> str:
        return f"{self.rng.randint(1, 28)} {self._pick('months')} {self.rng.randint(1950, 2026)}"

    def number(self) -> str:
        return f"{self.rng.choice((self.rng.randint(10, 999), self.rng.randint(1000, 99999))):,}"

    def money(self) -> str:
        return f"{self.rng.randint(1, 400)}.{self.rng.randint(0, 99):02}"

    def goods(self) -> str:
        return self._pick("goods")

    def fields(self, count: int) -> list[tuple[str, str]]:
        """Labels of a form with what was filled in."""
        makers = (self.name, self.place, self.date, self.number)
        return [(label, self.rng.choice(makers)()) for label in self.rng.sample(WORDS["fields"], count)]

    def chinese(self, num_characters: int) -> str:
        said = ""
        while len(said) < num_characters:
            when, who, did, what, why = (
                self._pick(f"chinese_{part}") for part in ("when", "who", "did", "what", "why")
            )
            said += f"{when}，{who}{did}{what}，{why}。"
            if self.rng.random() < 0.3:
                said += f"共计{self.rng.randint(3, 9999)}件，占{self.rng.randint(2, 60)}%。"
        return said

    def chinese_headline(self) -> str:
        return f"{self._pick('chinese_who')}与{self._pick('chinese_what')}"

    def other_script(self, name: str, num_words: int) -> str:
        """Words of `russian` or `greek` as sentences, which need not mean anything."""
        said: list[str] = []
        while sum(len(sentence.split()) for sentence in said) < num_words:
            chosen = self.rng.sample(WORDS[name], self.rng.randint(5, 11))
            said.append(" ".join(chosen).capitalize() + ".")
        return " ".join(said)
