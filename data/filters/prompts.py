"""Near duplicates among the prompts of a whole set."""

from __future__ import annotations

from typing import Final, Literal

import polars as pl
from pydantic import Field

from data.filters.groups import jaccard, numerals_hash, shingles
from data.filters.kinds import GroupFilter
from data.scan import numerals

PROMPT_FACTS: Final = ("prompt_numerals", "prompt_shingles")


class NearDuplicatePrompt(GroupFilter):
    """Drops the responses to a prompt that hardly differs from another; all of them, whatever they say.

    Prompts with other numbers, numerals, arithmetic signs or single letters, or the same ones in another order,
    are never duplicates. Filters of one problem leave it a row, so that which prompts are left when this one is
    reached hangs on the row filters before it alone.
    """

    name: Literal["near_duplicate_prompt"] = "near_duplicate_prompt"
    min_similarity: float = Field(0.8, gt=0, le=1, description="Jaccard similarity of the shingles")
    shingle: int = Field(2, ge=1, description="units of a shingle")

    def facts(self, frame: pl.DataFrame) -> list[pl.Series]:
        """Numerals and shingles of each prompt, once a problem."""
        first = frame.select(pl.col("problem_id").is_first_distinct().arg_true()).to_series()
        prompts, many = frame["prompt"].gather(first), "walk.lines" in frame.columns
        known = numerals(prompts) if many else pl.Series([None], dtype=pl.UInt64).new_from_index(0, len(prompts))
        others = known.is_null().arg_true()
        read = pl.Series(map(numerals_hash, prompts.gather(others)), dtype=pl.UInt64)
        found = pl.DataFrame(
            {
                "row": first,
                "prompt_numerals": known.scatter(others, read),
                "prompt_shingles": shingles(prompts, self.shingle, many),
            }
        )
        rows = pl.DataFrame({"row": pl.int_range(len(frame), dtype=pl.UInt32, eager=True)})
        return rows.join(found, on="row", how="left", maintain_order="left").drop("row").get_columns()

    def alike(self, prompts: pl.DataFrame) -> pl.DataFrame:
        """(problem_id, partner): each prompt to drop, and the first by id of those that stay and are alike.

        `prompts` has the columns of `facts`, a row a problem; prompts that share their numerals are all in it.
        Two sets of shingles as similar as that share one of their rarest, so only such pairs are compared.
        """
        prompts = prompts.sort("problem_id").with_row_index("number")
        near: dict[int, list[int]] = {}
        for later, earlier in self._pairs(prompts).iter_rows():
            near.setdefault(later, []).append(earlier)
        numbers = sorted(near.keys() | {earlier for found in near.values() for earlier in found})
        sets = dict(zip(numbers, map(frozenset, prompts["prompt_shingles"].gather(numbers)), strict=True))
        partners: dict[int, int] = {}
        for later in sorted(near):
            for earlier in sorted(near[later]):
                if earlier not in partners and jaccard(sets[later], sets[earlier]) >= self.min_similarity:
                    partners[later] = earlier
                    break
        names = prompts["problem_id"]
        return pl.DataFrame(
            {
                "problem_id": [names[later] for later in partners],
                "partner": [names[first] for first in partners.values()],
            },
            schema={"problem_id": pl.String, "partner": pl.String},
        )

    def _pairs(self, prompts: pl.DataFrame) -> pl.DataFrame:
        """(later, earlier) numbers of the prompts that may be alike."""
        least = pl.col("size") - (pl.col("size") * self.min_similarity - 1e-9).ceil() + 1
        rarest = (
            prompts.with_columns(pl.col("prompt_shingles").list.len().alias("size"))
            .explode("prompt_shingles")
            .with_columns(pl.len().over("prompt_numerals", "prompt_shingles").alias("times"))
            .sort("number", "times", "prompt_shingles")
            .filter(pl.int_range(pl.len()).over("number") < least)
            .select("number", "prompt_numerals", "prompt_shingles")
        )
        both = rarest.join(rarest, on=["prompt_numerals", "prompt_shingles"], suffix="_earlier")
        return both.filter(pl.col("number") > pl.col("number_earlier")).select("number", "number_earlier").unique()

    def details(self, facts: pl.DataFrame) -> pl.Series:
        """Id of the problem that stays: `alike` of the whole set, in the column `partner`, or of these facts."""
        if "partner" in facts.columns:
            return facts["partner"].rename("detail")
        prompts = facts.filter(pl.col("prompt_numerals").is_not_null()).unique("problem_id", keep="first")
        found = facts.select("problem_id").join(self.alike(prompts), on="problem_id", how="left", maintain_order="left")
        return found["partner"].rename("detail")
