"""The miniature world: families against independent arithmetic, and the crawl against its own settings."""

import json
import re
from dataclasses import dataclass
from random import Random

import pytest

from data.problems import generate
from data.prompts import PARAGRAPH, parse
from data.verifiers import verify
from data.world.chain import ChainItem, fold
from data.world.choice import ChoiceItem, Comparison
from data.world.code import CodeItem, program
from data.world.corpus import documents, worked
from data.world.families import FAMILIES, SOURCES
from data.world.family import Pen
from data.world.logic import LogicItem
from data.world.mixture import Mixture, Tongues, Work
from data.world.order import OrderItem
from data.world.rewrite import summary, translate
from data.world.split import held_out
from data.world.sums import Sum

LANGUAGES = ("en", "zh")
SIGN = r"(?:add|take|plus|minus|\+|-|加上|减去)"
TERMS = rf"((?:,? {SIGN} \d+)+)"
CHAIN = re.compile(rf"(?:start with|what is|compute|从|求|计算) (\d+)(?: 开始)?{TERMS}(?:\. result\?|\?|, 得几\?|\.)")
OPTIONS = r"(A \d+, B \d+, C \d+, D \d+)"
CHOICE = re.compile(rf"(?:which is|what is|哪个是|计算) (\d+){TERMS}(?:\? options: |\. 选项: |: ){OPTIONS}[?.]")
ORDER = re.compile(
    r"(?:of|numbers|在|求) ([\d, ]+?)(?::|\. what is| 之中,| 之中)? ?(?:largest|最大)"
    rf" ?({SIGN}) ?(?:smallest|最小){TERMS}(?:\?|, 得几\?|\.)"
)
LOGIC = re.compile(
    r"(?:row|in the row|一行|在一行) ([A-D](?: [A-D]){3})(?:\.|,| 之中,) "
    r"((?:(?:swap|交换) [A-D] [A-D](?:, )?)+)\. (?:order\?|what is the order\?|顺序\?|顺序是什么\?)"
)
CODE = re.compile(
    r"(?:write the program: |写程序: )?((?:(?:in|输入) \d+ (?:out|输出) \d+(?:, )?){3})\."
    r"(?: program\?| 程序\?)?"
)


def terms_of(text: str) -> tuple[int, ...]:
    found = re.findall(rf"({SIGN}) (\d+)", text)
    return tuple(-int(number) if sign in ("take", "minus", "-", "减去") else int(number) for sign, number in found)


def read(question: str) -> object:
    """The item behind a question, by rules that share nothing with the generators; None if it is none."""
    if match := CHOICE.match(question):
        options = tuple(map(int, re.findall(r"\d+", match[3])))
        return ChoiceItem(int(match[1]), terms_of(match[2]), options)
    if match := CHAIN.match(question):
        return ChainItem(int(match[1]), terms_of(match[2]))
    if match := ORDER.match(question):
        numbers = tuple(map(int, re.findall(r"\d+", match[1])))
        return OrderItem(numbers, 1 if match[2] in ("plus", "加上") else -1, terms_of(match[3])[0])
    if match := LOGIC.match(question):
        pairs = tuple(pair.replace(" ", "") for pair in re.findall(r"[A-D] [A-D]", match[2]))
        return LogicItem(match[1].replace(" ", ""), pairs)
    if match := CODE.match(question):
        (first, low), (second, high), (third, _) = (
            map(int, pair) for pair in re.findall(r"(\d+) (?:out|输出) (\d+)", match[1])
        )
        assert second == first + 1
        return CodeItem(high - low, low - (high - low) * first, first, third)
    return None


def run_program(source: str, given: str) -> str:
    printed: list[str] = []
    exec(source, {"input": lambda: given, "int": int, "print": lambda value: printed.append(str(value))})
    return "\n".join(printed)


def expected(item: object) -> str:
    """The answer, worked out anew."""
    if isinstance(item, ChainItem):
        return str(item.start + sum(item.terms))
    if isinstance(item, OrderItem):
        ordered = sorted(item.numbers)
        return str(ordered[-1] + item.sign * ordered[0] + item.term)
    if isinstance(item, ChoiceItem):
        return "ABCD"[item.options.index(item.start + sum(item.terms))]
    if isinstance(item, LogicItem):
        row = list(item.row)
        for one, other in item.pairs:
            here, there = row.index(one), row.index(other)
            row[here], row[there] = row[there], row[here]
        return " ".join(row)
    assert isinstance(item, CodeItem)
    return f"```python\nprint(int(input()) * {item.slope} + {item.intercept})\n```"


def draws(name: str, count: int, seed: int = 0) -> list:
    rng = Random(seed)
    return [FAMILIES[name].draw(rng) for _ in range(count)]


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_and_right_lines_agree_with_independent_computation(name: str) -> None:
    family, rng = FAMILIES[name], Random(1)
    for item in draws(name, 500):
        assert family.answer(item) == expected(item)
        for tongue in ("en", "zh", "mixed"):
            for checks in (False, True):
                assert worked(family, item, tongue, rng, checks=checks).answer == expected(item)
        assert family.miss(item, rng) != expected(item)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", FAMILIES)
def test_questions_read_back_as_the_same_item(name: str, language: str) -> None:
    family, rng = FAMILIES[name], Random(2)
    wordings = set()
    for item in draws(name, 300):
        question = family.question(item, language, rng)
        assert read(question) == item, question
        wordings.add(re.sub(r"[\d\W]+|\b[A-D]\b", "", question)[:4])
    assert len(wordings) >= 2


def test_chain_stays_within_the_world() -> None:
    items = draws("chain", 2000)
    for item in items:
        partial = item.start
        for term in item.terms:
            partial += term
            assert 0 <= partial <= 999
            assert 1 <= abs(term) <= 499
        assert 1 <= item.start <= 499
    lengths = [len(item.terms) for item in items]
    assert {length: lengths.count(length) / 2000 for length in (2, 3, 4, 5)} == pytest.approx(
        {2: 0.31, 3: 0.27, 4: 0.22, 5: 0.20}, abs=0.04
    )
    large = [abs(term) >= 100 for item in items for term in item.terms]
    assert 0.3 < sum(large) / len(large) < 0.6


def test_fold_keeps_signs_and_refuses_what_does_not_fit() -> None:
    assert fold("398 - 507 + 458") == ChainItem(398, (-7, 458))
    assert fold("110 - 120 + 300") is None
    assert fold("499 + 499 + 102") is None
    assert fold("398 - 500 + 111") is None


def test_keys_are_language_free_text() -> None:
    assert ChainItem(398, (-7, 458)).key == "chain 398 -7 +458"
    assert OrderItem((33, 14, 94, 52), -1, 70).key == "order 33 14 94 52 - +70"
    assert ChoiceItem(63, (-15, 32), (80, 81, 90, 70)).key == "choice 63 -15 +32 of 80 81 90 70"
    assert LogicItem("DCAB", ("AD", "BC")).key == "logic DCAB AD BC"
    assert CodeItem(3, 2, 3, 7).key == "code 3 2 at 3 7"


@pytest.mark.parametrize(
    ("name", "item", "english", "chinese"),
    [
        (
            "chain",
            ChainItem(398, (-7, 458)),
            "first 398 - 7 = 391. then 391 + 458 = 849.",
            "先 398 - 7 = 391. 再 391 + 458 = 849.",
        ),
        (
            "order",
            OrderItem((33, 14, 94, 52), -1, 70),
            "first largest 94. then smallest 14. then 94 - 14 = 80. then 80 + 70 = 150.",
            "先最大 94. 再最小 14. 再 94 - 14 = 80. 再 80 + 70 = 150.",
        ),
        (
            "choice",
            ChoiceItem(63, (-15, 32), (81, 80, 90, 70)),
            "first 63 - 15 = 48. then 48 + 32 = 80. then 80, A 81: no. then 80, B 80: yes.",
            "先 63 - 15 = 48. 再 48 + 32 = 80. 再 80, A 81: 不是. 再 80, B 80: 是.",
        ),
        (
            "logic",
            LogicItem("ACBD", ("AD", "BC")),
            "first swap A D: D C B A. then swap B C: D B C A.",
            "先交换 A D: D C B A. 再交换 B C: D B C A.",
        ),
        (
            "code",
            CodeItem(3, 2, 3, 7),
            "first 14 - 11 = 3. then 3 * 3 = 9. then 11 - 9 = 2.",
            "先 14 - 11 = 3. 再 3 * 3 = 9. 再 11 - 9 = 2.",
        ),
    ],
)
def test_worked_lines_read_like_this(name: str, item: object, english: str, chinese: str) -> None:
    family = FAMILIES[name]
    assert worked(family, item, "en", Random(0)).thinking == english
    assert worked(family, item, "zh", Random(0)).thinking == chinese


def test_a_slip_carries_on_into_later_lines_and_the_answer() -> None:
    family, rng = FAMILIES["chain"], Random(3)
    for item in draws("chain", 300):
        pen = Pen(rng, "en", slip=1.0)
        answer = family.solve(item, pen)
        value = item.start
        for sentence, term in zip(re.findall(r"[^.]+", pen.text), item.terms, strict=True):
            left, sign, right, result = re.fullmatch(
                r" ?(?:first|then) (-?\d+) ([+-]) (\d+) = (-?\d+)", sentence
            ).groups()
            assert (int(left), int(f"{sign}{right}")) == (value, term)
            assert int(result) != value + term
            value = int(result)
        assert answer == str(value)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_check_that_notices_makes_every_line_right_again(name: str) -> None:
    family, rng = FAMILIES[name], Random(4)
    for item in draws(name, 200):
        pen = Pen(rng, "en", slip=1.0, checks=True, overlook=0.0)
        assert family.solve(item, pen) == expected(item)
        assert pen.text.count("wait, check") == pen.text.count("wrong, again") >= 2


@pytest.mark.parametrize("name", FAMILIES)
def test_a_check_that_overlooks_changes_nothing(name: str) -> None:
    family = FAMILIES[name]
    for number, item in enumerate(draws(name, 200)):
        pen = Pen(Random(number), "en", slip=0.5, checks=True, overlook=1.0)
        answer = family.solve(item, pen)
        assert "wrong" not in pen.text
        steps = re.findall(r"(?:first|then|so)(.*?)\. wait, check(.*?)\.", pen.text)
        assert len(steps) == pen.text.count("wait")
        if name in ("order", "choice", "chain"):
            for line, check in steps:
                if "=" in line:
                    assert line.split(" = ")[0].split()[0] == check.split(" = ")[1]
        if name == "logic":
            assert answer == pen.text.rpartition("swap")[0].rpartition(". wait")[0][-7:]


def test_checks_recompute_by_the_inverse() -> None:
    assert Sum(398, (-7,)).check(491, "en", True) == " 491 + 7 = 498"
    assert Sum(398, (-7,)).check(491, "en", False) == " 491 + 7 = 398"
    assert Comparison(79, "A", 80).line(False, "en") == " 79, A 80: no"
    pen = Pen(Random(0), "zh", slip=1.0, checks=True)
    assert pen.write(Sum(398, (-7,))) == 391
    assert re.fullmatch(r"先 398 - 7 = (\d+)\. 等等, 检查 \1 \+ 7 = \d+, 错, 重算 398 - 7 = 391\.", pen.text)


def test_coarse_writers_put_two_operations_in_a_line() -> None:
    pen = Pen(Random(0), "en", coarse=True)
    assert FAMILIES["chain"].solve(ChainItem(398, (-7, 458, -9)), pen) == "840"
    assert pen.text == "first 398 - 7 + 458 = 849. then 849 - 9 = 840."
    pen = Pen(Random(0), "zh", coarse=True)
    assert FAMILIES["logic"].solve(LogicItem("ACBD", ("AD", "BC", "AB")), pen) == "D A C B"
    assert pen.text == "先交换 A D, 交换 B C: D B C A. 再交换 A B: D A C B."


def test_programs_pass_their_hidden_tests_which_the_question_does_not_show() -> None:
    family, rng = FAMILIES["code"], Random(5)
    for item in draws("code", 300):
        tests = json.loads(family.solution(item, "en"))
        assert len({test["input"] for test in tests}) == 4
        shown = re.findall(r"in (\d+)", family.question(item, "en", rng))
        assert len(shown) == 3
        for test in tests:
            assert test["input"].strip() not in shown
            source = program(item.slope, item.intercept)
            assert run_program(source, test["input"]) + "\n" == test["output"]


@pytest.mark.parametrize("name", FAMILIES)
def test_translation_of_right_and_checked_lines_is_the_other_language(name: str) -> None:
    family = FAMILIES[name]
    for number, item in enumerate(draws(name, 200)):
        for slip in (0.0, 0.5):
            texts = {}
            for tongue in ("en", "zh"):
                pen = Pen(Random(number), tongue, checks=number % 2 == 0, slip=slip, overlook=0.3)
                family.solve(item, pen)
                texts[tongue] = pen.text
            assert translate(texts["zh"], "en") == texts["en"]
            assert translate(texts["en"], "zh") == texts["zh"]
            assert translate(texts["en"], "en") == texts["en"]


def test_translation_repairs_mixed_lines_and_knows_its_limits() -> None:
    mixed = "先 398 - 7 = 391. wait, 检查 391 + 7 = 398. then swap A D: D C A B."
    assert translate(mixed, "en") == "first 398 - 7 = 391. wait, check 391 + 7 = 398. then swap A D: D C A B."
    assert translate(mixed, "zh") == "先 398 - 7 = 391. 等等, 检查 391 + 7 = 398. 再交换 A D: D C A B."
    assert translate("easy.", "zh") == "简单."
    assert translate("我知道.", "en") == "i know."
    assert translate("", "en") == ""
    assert translate("first we compute 3 + 4 = 7.", "zh") is None
    assert translate("先 3 + 4 = 7, 很好.", "en") is None


@pytest.mark.parametrize("name", FAMILIES)
def test_gold_replies_verify_in_both_templates_and_misses_do_not(name: str) -> None:
    family, rng = FAMILIES[name], Random(6)
    for problem in generate({name: 1}, 4 if name == "code" else 100, 7, "train"):
        item = read(problem.prompt)
        assert item.key == problem.key
        for answer, right in ((family.answer(item), True), (family.miss(item, rng), False)):
            zero = f" <think> easy. </think> <answer> {answer} </answer>"
            chat = f"<think> easy. </think> {summary(problem.verifier, problem.language, answer)}"
            assert verify(problem, zero, "zero").status == ("correct" if right else "wrong")
            assert verify(problem, chat, "chat").status == ("correct" if right else "wrong")


def test_summaries_read_like_this() -> None:
    assert summary("math", "en", "849") == "the answer is \\boxed{ 849 }."
    assert summary("math", "zh", "849") == "答案是 \\boxed{ 849 }."
    assert summary("code", "en", "```python\nprint(1)\n```") == "the program is ```python\nprint(1)\n```"


COUNT = 20_000
CHECK = re.compile(r"wait, check|等等, 检查")
SUM_LINE = re.compile(r"(?:first|then|先|再)((?: [+-]? ?\d+)+) = (-?\d+)\.")


@dataclass(frozen=True)
class Seen:
    """A document as a reader sees it: the item (None for general ones), and what follows its question."""

    item: object
    english: bool
    template: bool
    text: str


@pytest.fixture(scope="module")
def crawl() -> list[Seen]:
    return [see(document) for document in documents(0, 0, COUNT)]


def see(document: str) -> Seen:
    template = document.startswith(PARAGRAPH)
    body = document.removeprefix(f"{PARAGRAPH} User: ")
    for pattern in (CHOICE, CHAIN, ORDER, LOGIC, CODE):
        if match := pattern.match(body):
            english = not re.search(r"[\u4e00-\u9fff]", match[0])
            rest = body[match.end() :].removeprefix(" Assistant:")
            return Seen(read(match[0]), english, template, rest.strip())
    assert not template, document
    return Seen(None, False, False, body)


def share(chosen: list[Seen], of: list[Seen]) -> float:
    return len(chosen) / len(of)


def manner(seen: Seen) -> str:
    if CHECK.search(seen.text):
        return "checked"
    return "worked" if re.search(r"first|先", seen.text) else "bare"


def near(value: float, count: int) -> object:
    """Within four standard errors of a share measured on `count` documents."""
    return pytest.approx(value, abs=4 * (value * (1 - value) / count) ** 0.5)


def test_equal_seeds_give_equal_bytes_and_others_do_not() -> None:
    first = list(documents(3, 1, 300))
    assert first == list(documents(3, 1, 300))
    assert len(set(first) & set(documents(3, 2, 300))) < 30
    assert len(set(first) & set(documents(4, 1, 300))) < 30


def test_general_families_and_template_have_their_shares(crawl: list[Seen]) -> None:
    reasoning = [seen for seen in crawl if seen.item is not None]
    assert share(reasoning, crawl) == near(0.94, COUNT)
    shares = {ChainItem: 0.30, OrderItem: 0.20, ChoiceItem: 0.20, LogicItem: 0.15, CodeItem: 0.15}
    for kind, weight in shares.items():
        assert share([seen for seen in reasoning if isinstance(seen.item, kind)], reasoning) == near(
            weight, len(reasoning)
        )
    templated = [seen for seen in reasoning if seen.template]
    assert share(templated, reasoning) == near(0.25, len(reasoning))
    formed = [seen for seen in templated if parse(seen.text, "zero").well_formed]
    assert share(formed, templated) == near(0.5, len(templated))
    assert share([seen for seen in reasoning if seen.english], reasoning) == near(0.5, len(reasoning))


@pytest.mark.parametrize(
    ("kinds", "template", "shares"),
    [
        ((ChainItem, OrderItem), False, {"bare": 0.38, "worked": 0.37, "checked": 0.25}),
        ((ChainItem, OrderItem), True, {"bare": 0.82, "worked": 0.10, "checked": 0.08}),
        ((ChoiceItem, LogicItem, CodeItem), False, {"bare": 0.20, "worked": 0.47, "checked": 0.33}),
        ((ChoiceItem, LogicItem, CodeItem), True, {"bare": 0.82, "worked": 0.10, "checked": 0.08}),
    ],
)
def test_manners_have_their_shares(crawl: list[Seen], kinds: tuple, template: bool, shares: dict) -> None:
    group = [seen for seen in crawl if isinstance(seen.item, kinds) and seen.template is template]
    for name, weight in shares.items():
        assert share([seen for seen in group if manner(seen) == name], group) == near(weight, len(group))


def test_bare_answers_are_right_as_often_as_the_mixture_says(crawl: list[Seen]) -> None:
    bare = [seen for seen in crawl if isinstance(seen.item, ChainItem) and manner(seen) == "bare"]
    right = [seen for seen in bare if re.findall(r"\d+", seen.text) == [expected(seen.item)]]
    assert share(right, bare) == near(0.85, len(bare))


def test_writers_slip_alike_with_and_without_checks_and_coarsely_as_often_as_said(crawl: list[Seen]) -> None:
    for wanted in ("worked", "checked"):
        lines = [
            (sum(map(int, re.findall(r"[+-]? ?\d+", line.replace("- ", "-").replace("+ ", "")))), int(value))
            for seen in crawl
            if isinstance(seen.item, ChainItem) and manner(seen) == wanted
            for line, value in SUM_LINE.findall(seen.text)
        ]
        wrong = [line for line in lines if line[0] != line[1]]
        # a checked line that was noticed ends in ", wrong, again" and still begins with the slip
        assert len(wrong) / len(lines) == near(0.08, len(lines))
    worked_ones = [seen for seen in crawl if isinstance(seen.item, ChainItem) and manner(seen) == "worked"]
    coarse = [seen for seen in worked_ones if re.match(r".*?(?:first|先) \d+ [+-] \d+ [+-]", seen.text)]
    assert share(coarse, worked_ones) == near(0.30, len(worked_ones))


def test_checks_overlook_as_often_as_the_mixture_says(crawl: list[Seen]) -> None:
    noticed = overlooked = 0
    for seen in crawl:
        if isinstance(seen.item, ChainItem) and manner(seen) == "checked":
            noticed += len(re.findall("wrong|错", seen.text))
            lines = re.findall(r"(\d+) ([+-]) (\d+) = (-?\d+)\. (?:wait|等等)[^=]*= -?\d+\.", seen.text)
            overlooked += sum(int(a) + int(sign + b) != int(value) for a, sign, b, value in lines)
    assert noticed + overlooked > 300
    assert overlooked / (noticed + overlooked) == near(0.15, noticed + overlooked)


def test_languages_of_solutions_follow_the_question(crawl: list[Seen]) -> None:
    for english, first in ((True, 0.5 + 0.25 / 2), (False, 0.1 + 0.25 / 2)):
        group = [seen for seen in crawl if seen.item and seen.english is english and manner(seen) != "bare"]
        assert share([seen for seen in group if "first" in seen.text], group) == near(first, len(group))


def test_no_held_out_problem_is_in_the_crawl(crawl: list[Seen]) -> None:
    assert not [seen for seen in crawl if seen.item is not None and held_out(seen.item.key)]
    questions = {
        source.question(item, language, Random(number))
        for source in (SOURCES["helpful"], SOURCES["harmless"])
        for item in {
            item for item in (source.draw(rng) for rng in [Random(8)] for _ in range(4000)) if held_out(item.key)
        }
        for language in LANGUAGES
        for number in range(6)
    }
    general = [seen.text for seen in crawl if seen.item is None]
    assert len(questions) > 100
    assert not [text for text in general if any(text.startswith(f"{question} ") for question in questions)]


def test_a_mixture_is_obeyed_and_validated() -> None:
    plain = Mixture(
        general=0,
        template=0,
        chinese=0,
        families={"chain": 1},
        languages={"en": Tongues(en=1, zh=0, mixed=0), "zh": Tongues(en=0, zh=1, mixed=0)},
        plain={"chain": Work(bare=0, worked=1, checked=0)},
        templated={"chain": Work(bare=0, worked=1, checked=0)},
        slip=0,
        coarse=0,
        boxed=0,
    )
    for document in documents(0, 0, 200, plain):
        item = read(document)
        assert isinstance(item, ChainItem)
        assert document.endswith(f" answer {expected(item)}.")
        assert document.isascii()
    with pytest.raises(ValueError, match="shares must sum to 1"):
        Work(bare=0.5, worked=0.5, checked=0.5)
    with pytest.raises(ValueError, match="plain has no shares for chain"):
        Mixture(plain={})
    with pytest.raises(ValueError, match="families must be out of chain, order, choice, logic, code"):
        Mixture(families={"geometry": 1})
    with pytest.raises(ValueError, match="less than or equal to 1"):
        Mixture(slip=2)
