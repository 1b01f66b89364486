"""How many rows of each domain a set has: DeepSeek-R1, Table 5 of version 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl

from data.lineage import Json, seed_of

GENERAL: Final = "general"
"""The domain of rows that no rule judges: the written ones, and trajectories of a family of that name."""

PAPER: Final = {"math": 395_285, "code": 211_129, "stem": 10_124, "logic": 10_395, GENERAL: 177_812}
"""The paper's own set, 804,745 rows, as `quotas`."""


def domains_of(ledger: pl.DataFrame, domains: Mapping[str, Sequence[str]]) -> pl.Series:
    """The domain of each row: the one whose families hold its own, else its family's name."""
    names = {family: domain for domain, families in domains.items() for family in families}
    return ledger["family"].replace(names).rename("domain")


def over_quota(left: pl.DataFrame, quotas: Mapping[str, int], seed: int) -> dict[str, str]:
    """Why each row goes that is one too many of its domain, by id: drawn by a hash of the seed and the id.

    `left` has the columns `id` and `domain`. Rows of a domain without a quota all stay.
    """
    over: dict[str, str] = {}
    for domain, most in quotas.items():
        ids = sorted(left["id"].filter(left["domain"] == domain), key=lambda id_: seed_of(seed, "quota", id_))
        over |= dict.fromkeys(ids[most:], f"{domain}: {most}")
    return over


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
