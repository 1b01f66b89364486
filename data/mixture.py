"""How many rows of each domain a set has: DeepSeek-R1, Table 5 of version 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from data.lineage import Json, seed_of

GENERAL: Final = "general"
"""The domain of rows that no rule judges: the written ones, and trajectories of a family of that name."""

PAPER: Final = {"math": 395_285, "code": 211_129, "stem": 10_124, "logic": 10_395, GENERAL: 177_812}
"""The paper's own set, 804,745 rows, as `quotas`."""


OVER_QUOTA: Final = "over_quota"


@dataclass(frozen=True, slots=True)
class Mixture:
    """What a build declares of how many rows it takes: `quotas` of domains, `domains` by their families, at most
    `max_rows` of all, each 0 or empty for no such limit; drawn by a hash of `seed` and the id."""

    seed: int
    quotas: Mapping[str, int]
    domains: Mapping[str, Sequence[str]]
    max_rows: int

    def drawn(self, rows: pl.DataFrame, left: pl.Series) -> list[pl.Series]:
        """The `domain` of each row, that of its family, and the `draw` of those `left`: the least are taken first."""
        names = {family: domain for domain, families in self.domains.items() for family in families}
        asked = left if self.quotas or self.max_rows else pl.repeat(False, len(rows), dtype=pl.Boolean, eager=True)
        pairs = zip(rows["id"], asked, strict=True)
        draws = [seed_of(self.seed, "quota", id_) if is_asked else None for id_, is_asked in pairs]
        return [rows["family"].replace(names).rename("domain"), pl.Series("draw", draws, pl.UInt64)]


def check_met(have: Mapping[str, int], quotas: Mapping[str, int]) -> None:
    """Raise ValueError where a domain has fewer rows than its quota, with how many are missing of each."""
    short = {domain: most - have.get(domain, 0) for domain, most in quotas.items() if have.get(domain, 0) < most}
    if short:
        missing = ", ".join(f"{domain} is {rows} rows short of {quotas[domain]}" for domain, rows in short.items())
        raise ValueError(f'quotas cannot be met: {missing}; sample more, ask for fewer, or set on_short = "go_on"')


def domain_in_sql(family: str, domains: Mapping[str, Sequence[str]]) -> str:
    """The same as an expression of SQL over the column `family`."""
    known = "".join(
        f" WHEN {_quoted(each)} THEN {_quoted(domain)}" for domain, families in domains.items() for each in families
    )
    return f"CASE {family}{known} ELSE {family} END" if known else family


def declared(record: Mapping[str, Json]) -> Mapping[str, Sequence[str]]:
    """The domains that the settings of a build's record declare."""
    found: Mapping[str, Sequence[str]] = record["config"]["config"].get("domains", {})
    return found


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
