"""Two builds of fine-tuning sets, row against row: what the second took that the first did not, and the other way."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import duckdb
import polars as pl

ABSENT: Final = "absent"
"""The reason of a row that the other build was not given."""


class Changes(NamedTuple):
    """What fared differently. `counts` has (change, reason, domain, language, rows); `examples` has (change, reason,
    id, detail, prompt), of different problems.

    A row is "gained" that only the second build took, and its reason is the first's; "lost" the other way round;
    "moved" where both dropped it, for different reasons.
    """

    counts: pl.DataFrame
    examples: pl.DataFrame


def changes(before: Path, after: Path, examples: int = 2) -> Changes:
    """Compare two builds' folders by the ids of their trajectories; so many `examples` for each change and reason."""
    with duckdb.connect(":memory:") as connection:
        connection.execute(_CHANGES.format(before=_fates(before), after=_fates(after)))
        counts = connection.execute(_COUNTS).fetchall()
        texts = _list([folder / f"{table}.parquet" for folder in (before, after) for table in ("kept", "dropped")])
        shown = connection.execute(_EXAMPLES.format(texts=texts), {"count": examples}).fetchall()
    kinds = dict.fromkeys(("change", "reason", "domain", "language"), pl.String)
    return Changes(
        pl.DataFrame(counts, kinds | {"rows": pl.Int64}, orient="row"),
        pl.DataFrame(shown, dict.fromkeys(("change", "reason", "id", "detail", "prompt"), pl.String), orient="row"),
    )


_CHANGES: Final = f"""
    CREATE TEMP TABLE changes AS
    WITH old AS ({{before}}), new AS ({{after}}), met AS (
        SELECT id, problem_id, coalesce(new.family, old.family) AS domain,
               coalesce(new.language, old.language) AS language,
               if(old.id IS NULL, '{ABSENT}', old.reason) AS before,
               if(new.id IS NULL, '{ABSENT}', new.reason) AS after,
               old.detail AS detail_before, new.detail AS detail_after
        FROM old FULL JOIN new USING (id, problem_id)
    )
    SELECT id, problem_id, domain, language,
           CASE WHEN after IS NULL THEN 'gained' WHEN before IS NULL THEN 'lost' ELSE 'moved' END AS change,
           CASE WHEN after IS NULL THEN before WHEN before IS NULL THEN after
                ELSE concat(before, ' -> ', after) END AS reason,
           coalesce(if(after IS NULL, detail_before, detail_after), '') AS detail
    FROM met WHERE before IS DISTINCT FROM after
"""
_COUNTS: Final = """
    SELECT change, reason, domain, language, count(*) AS rows FROM changes
    GROUP BY ALL ORDER BY change, reason, rows DESC, domain, language
"""
_EXAMPLES: Final = """
    WITH firsts AS (
        SELECT * FROM changes
        QUALIFY row_number() OVER (PARTITION BY change, reason, problem_id ORDER BY id) = 1
    ), shown AS (
        SELECT * FROM firsts QUALIFY row_number() OVER (PARTITION BY change, reason ORDER BY id) <= $count
    )
    SELECT change, reason, id, detail, any_value(prompt) AS prompt
    FROM shown JOIN (SELECT id, prompt FROM read_parquet({texts}, union_by_name = true)) USING (id)
    GROUP BY ALL ORDER BY change, reason, id
"""


def _fates(folder: Path) -> str:
    """Every trajectory of a build with the reason for which it was dropped, null where it was kept."""
    known = "SELECT id, problem_id, family, language"
    return (
        f"{known}, NULL AS reason, NULL AS detail FROM read_parquet({_list([folder / 'kept.parquet'])}) "
        f"UNION ALL {known}, reason, detail FROM read_parquet({_list([folder / 'dropped.parquet'])})"
    )


def _list(files: list[Path]) -> str:
    return "[{}]".format(", ".join("'" + str(file).replace("'", "''") + "'" for file in files))
