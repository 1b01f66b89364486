"""Graded families: gold answers against arithmetic done anew, right and slipped lines, levels, and the split."""

import math
import re
from collections.abc import Callable
from itertools import pairwise
from random import Random
from statistics import mean

import pytest
from reasoning_gym.arithmetic.leg_counting import ANIMALS

from data.problems import generate, known_families
from data.prompts import parse
from data.verifiers import verify
from data.world.corpus import documents, worked
from data.world.family import Pen
from data.world.graded import GRADED, Level
from data.world.mixture import Mixture, Tongues, Work
from data.world.split import held_out
from data.world.worksheets import Divisor, Equation, Factors, Legs, Terms

ENGLISH = {"en": Tongues(en=1, zh=0, mixed=0), "zh": Tongues(en=1, zh=0, mixed=0)}
HALF = Work(bare=0.4, worked=0.3, checked=0.3)


def of_sum(question: str) -> str:
    found = re.search(r": ([-+ \d]+) =$", question)
    assert found
    return str(sum(int(term) for term in re.findall(r"[-+]?\d+", found[1].replace(" ", ""))))


def of_product(question: str) -> str:
    found = re.search(r"(\d+) \* (\d+)\.", question)
    assert found
    return str(int(found[1]) * int(found[2]))


def of_gcd(question: str) -> str:
    one, other = map(int, re.findall(r"\d+", question))
    return str(math.gcd(one, other))


def of_legs(question: str) -> str:
    counts = re.findall(r"(\d+) ([a-z ]+?)(?:,|\?)", question)
    return str(sum(int(count) * ANIMALS.get(name, ANIMALS.get(name[:-1], -999)) for count, name in counts))


def of_equation(question: str) -> str:
    left, right = question.rpartition(": ")[2].split(" = ")
    found = [x for x in range(1, 100) if eval(re.sub("[a-z]", str(x), left)) == int(right)]
    assert len(found) == 1
    return str(found[0])


ANEW: dict[str, Callable[[str], str]] = {
    "chain_sum": of_sum, "products": of_product, "gcd": of_gcd, "leg_counting": of_legs,
    "simple_equations": of_equation,
}  # fmt: skip


def family_of(name: str) -> str:
    return name.rpartition("_")[0]


def draws(level: Level, count: int, seed: int = 0) -> list:
    rng = Random(seed)
    return [level.draw(rng) for _ in range(count)]


@pytest.mark.parametrize("name", GRADED)
def test_gold_answers_and_right_lines_agree_with_independent_computation(name: str) -> None:
    level, rng = GRADED[name], Random(1)
    for item in draws(level, 200):
        assert item.answer == ANEW[family_of(name)](item.question), item
        assert worked(level, item, "en", rng).answer == item.answer
        assert worked(level, item, "en", rng, checks=True).answer == item.answer
        assert level.miss(item, rng) != item.answer


@pytest.mark.parametrize("name", GRADED)
def test_every_written_line_is_true_without_slips(name: str) -> None:
    level, rng = GRADED[name], Random(2)
    for item in draws(level, 60):
        thinking = worked(level, item, "en", rng, checks=True).thinking
        lines = re.findall(r"(-?\d[-+*/ \d]*) = (-?\d+)[.,]", thinking)
        assert len(lines) == thinking.count("=") > 1
        for left, right in lines:
            assert eval(left) == int(right), (left, right)


@pytest.mark.parametrize("name", GRADED)
def test_slips_carry_on_into_the_answer_and_checks_find_them(name: str) -> None:
    level = GRADED[name]

    def right(checks: bool, overlook: float) -> float:
        rng, found = Random(3), []
        for item in draws(level, 150):
            pen = Pen(rng, "en", slip=0.3, checks=checks, overlook=overlook)
            found.append(level.solve(item, pen) == item.answer)
        return mean(found)

    assert right(checks=True, overlook=0.0) == 1.0
    assert right(checks=False, overlook=0.0) < 0.75
    assert right(checks=True, overlook=1.0) < 0.75


def test_levels_of_a_family_get_longer_and_share_no_problem() -> None:
    lines: dict[str, list[float]] = {}
    keys: dict[str, set[str]] = {}
    for name, level in GRADED.items():
        items = draws(level, 300)
        length = mean(len(worked(level, item, "en", Random(4)).thinking) for item in items)
        lines.setdefault(family_of(name), []).append(length)
        mine = {item.key for item in items}
        assert not mine & keys.setdefault(family_of(name), set())
        keys[family_of(name)] |= mine
    assert len(lines["chain_sum"]) == 4
    for family, lengths in lines.items():
        assert len(lengths) > 1, family
        assert all(later > 1.05 * earlier for earlier, later in pairwise(lengths)), family


def test_a_key_is_what_is_asked_and_not_how() -> None:
    assert Divisor.read({"numbers": [54, 98], "result": 2}) == Divisor.read({"numbers": [98, 54], "result": 2})
    one, other = (Equation.read({"equation": text}) for text in ("10*h - 9 = 41", "10*k - 9 = 41"))
    assert one
    assert other
    assert one.key == other.key == "10x -9 = 41"
    turned = Equation.read({"equation": "9 - 10*k = -41"})
    assert turned
    assert turned.key != one.key
    assert Legs((("ant", 2), ("cat", 1))).key == Legs((("cat", 1), ("ant", 2))).key == "2 ant, 1 cat"
    assert Factors(44, 81).key == Factors(81, 44).key


@pytest.mark.parametrize(
    ("sheet", "metadata"),
    [
        (Terms, {"expression": "5 - 0 + 6"}),
        (Factors, {"expression": "44 * 80"}),
        (Divisor, {"numbers": [7, 12], "result": 1}),
        (Divisor, {"numbers": [12, 4], "result": 4}),
        (Equation, {"equation": "5*b = 45"}),
        (Equation, {"equation": "b + 5 = 45"}),
        (Equation, {"equation": "-4*d - 3 = -11"}),
    ],
)
def test_what_needs_no_second_line_is_left_out(sheet: type, metadata: dict) -> None:
    assert sheet.read(metadata) is None


def test_near_misses_of_what_is_left_out_are_kept() -> None:
    assert Terms.read({"expression": "5 - 1 + 6"}) == Terms(5, (-1, 6))
    assert Factors.read({"expression": "44 * 81"}) == Factors(44, 81)
    assert Divisor.read({"numbers": [8, 12], "result": 4}) == Divisor(12, 8)
    assert Equation.read({"equation": "5*b - 5 = 45"}) == Equation(5, -5, 45, turned=False)


def test_problems_are_english_verify_and_fall_on_one_side_of_the_split() -> None:
    families = dict.fromkeys(GRADED, 1.0)
    train = list(generate(families, 600, 5, "train", ["zh"]))
    heldout = list(generate(families, 200, 5, "heldout"))
    assert {problem.language for problem in [*train, *heldout]} == {"en"}
    assert {problem.family for problem in heldout} == set(GRADED)
    assert len({problem.key for problem in train}) == 600
    assert all(held_out(problem.key) for problem in heldout)
    assert not any(held_out(problem.key) for problem in train)
    for problem in heldout[:60]:
        assert verify(problem, f"<think> x </think> <answer> {problem.solution} </answer>", "zero").status == "correct"
        wrong = verify(problem, f"<think> x </think> <answer> {int(problem.solution) + 1} </answer>", "zero")
        assert wrong.status == "wrong"


def test_the_crawl_writes_them_by_one_table_of_shares_and_holds_out_what_is_held_out() -> None:
    mixture = Mixture(
        general=0, families=dict.fromkeys(GRADED, 1.0), chinese=0, languages=ENGLISH, template=1, broken=0, slip=0,
        bare_right=1, plain={"graded": HALF}, templated={"graded": HALF},
    )  # fmt: skip
    held = {level.draw(Random(seed)).question for level in GRADED.values() for seed in range(200)
            if held_out(level.draw(Random(seed)).key)}  # fmt: skip
    texts = list(documents(7, 0, 400, mixture))
    assert texts == list(documents(7, 0, 400, mixture))
    for text in texts:
        prompt, _, reply = text.partition(" Assistant: <think>")
        question = prompt.rpartition(" User: ")[2]
        assert question not in held
        family = next(family for family in ANEW if any(word in question for word in WORDS[family]))
        parts = parse("<think>" + reply, "zero")
        assert parts.well_formed
        assert parts.answer == ANEW[family](question)
    bare = mean("=" not in text.rpartition("<think>")[2] for text in texts)
    assert 0.3 < bare < 0.5


WORDS = {
    "chain_sum": ["arithmetic problem"], "products": ["multiplication"], "gcd": ["Greatest"],
    "leg_counting": ["legs"], "simple_equations": ["value of", "Solve for"],
}  # fmt: skip


def test_families_of_the_miniature_need_shares_of_their_own() -> None:
    with pytest.raises(ValueError, match="plain has no shares for chain"):
        Mixture(families={"chain": 1.0}, plain={"graded": HALF})
    with pytest.raises(ValueError, match="templated has no shares for gcd_1"):
        Mixture(families={"gcd_1": 1.0}, plain={"graded": HALF})
    with pytest.raises(ValueError, match=r"families must be out of chain, order, .*simple_equations_2"):
        Mixture(families={"gcd_3": 1.0}, plain={"graded": HALF}, templated={"graded": HALF})
    assert "chain_sum_1, chain_sum_2" in known_families()
