"""Settings of the crawl: what is written, how, in which language, and how often it is wrong.

The defaults are assumptions about a crawl, not facts: that English questions are answered in Chinese more
often than the reverse, and that people who check slip as often as those who do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from data.lineage import Settings
from data.world.families import FAMILIES, REASONING, SHARES
from data.world.family import Tongue
from data.world.graded import GRADED

Manner = Literal["bare", "worked", "checked"]
Share = Annotated[float, Field(ge=0, le=1)]


class _Shares(Settings):
    @model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        shares = self.model_dump()
        if abs(sum(shares.values()) - 1) > 1e-6:
            raise ValueError(f"shares must sum to 1, got {shares}")
        return self


class Work(_Shares):
    """How documents are worked: the bare answer, worked lines, or worked lines each with a check."""

    bare: Share
    worked: Share
    checked: Share

    def weights(self) -> dict[Manner, float]:
        """The shares by name."""
        return {"bare": self.bare, "worked": self.worked, "checked": self.checked}


class Tongues(_Shares):
    """The languages of solutions; `mixed` changes from sentence to sentence."""

    en: Share
    zh: Share
    mixed: Share

    def weights(self) -> dict[Tongue, float]:
        """The shares by name."""
        return {"en": self.en, "zh": self.zh, "mixed": self.mixed}


def _work(short: Work, long: Work) -> dict[str, Work]:
    """Families whose line is hard to learn get the share with more worked documents."""
    return {family: long if family in ("choice", "logic", "code") else short for family in FAMILIES}


def work_of(shares: Mapping[str, Work], family: str) -> Work | None:
    """The shares of a family: its own, or those of all graded families."""
    return shares.get(family) or (shares.get("graded") if family in GRADED else None)


class Mixture(Settings):
    """The composition of the crawl; every field is a share of what its comment names."""

    general: Share = 0.06
    """of all documents: general prompts with replies, and facts."""
    facts: Share = 0.5
    """of general documents: plain statements of fact."""
    careless: Share = 0.35
    """of replies to general prompts: by writers who fail in some way."""
    families: Mapping[str, float] = Field(default=dict(SHARES))
    """weights of the reasoning families among the other documents."""
    chinese: Share = 0.5
    """of questions."""
    languages: Mapping[str, Tongues] = {
        "en": Tongues(en=0.5, zh=0.25, mixed=0.25),
        "zh": Tongues(en=0.1, zh=0.65, mixed=0.25),
    }
    """of solutions, by the language of the question."""
    template: Share = 0.25
    """of reasoning documents: in the template of R1-Zero, the others in plain words."""
    broken: Share = 0.5
    """of documents in the template: with a tag missing or misplaced."""
    plain: Mapping[str, Work] = _work(
        Work(bare=0.38, worked=0.37, checked=0.25), Work(bare=0.20, worked=0.47, checked=0.33)
    )
    """of plain documents, by family; under `graded` for all graded families that are not named."""
    templated: Mapping[str, Work] = _work(
        Work(bare=0.82, worked=0.10, checked=0.08), Work(bare=0.82, worked=0.10, checked=0.08)
    )
    """of documents in the template, by family."""
    bare_right: Share = 0.85
    """of bare answers: the right one."""
    slip: Share = 0.08
    """of worked lines: written with a slip, whether checked or not."""
    overlook: Share = 0.15
    """of slips that a check looks at: not noticed."""
    coarse: Share = 0.30
    """of worked documents without checks: two operations a line, where the family allows it."""
    boxed: Share = 0.25
    """of plain documents: conclude with the sentence that a summary uses."""

    @model_validator(mode="after")
    def _covers_families(self) -> Self:
        unknown = [family for family in self.families if family not in REASONING]
        if unknown or not self.families:
            raise ValueError(f"families must be out of {', '.join(REASONING)}, got {dict(self.families)}")
        for name, field in (("plain", self.plain), ("templated", self.templated)):
            missing = [family for family in self.families if work_of(field, family) is None]
            if missing:
                raise ValueError(f"{name} has no shares for {', '.join(missing)}")
        if set(self.languages) != {"en", "zh"}:
            raise ValueError(f"languages must have shares for en and zh, got {sorted(self.languages)}")
        return self
