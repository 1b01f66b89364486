"""What the benchmark of curation declares."""

from benchmarks.curation import declared, wanted
from data.mixture import PAPER


def test_as_many_rows_go_in_as_the_papers_table_is_cut_from() -> None:
    assert wanted(1_200_000) == PAPER
    assert declared(1_200_000).quotas == PAPER


def test_fewer_rows_are_cut_to_the_proportions_of_the_table() -> None:
    assert wanted(20_000) == {"math": 6588, "code": 3519, "stem": 169, "logic": 173, "general": 2963}
