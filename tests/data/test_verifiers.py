"""Verdicts: right answers in every allowed form, and cheats that must never be correct."""

import json
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from random import Random
from typing import Any

import pytest

from data import workers
from data.answers import Unparseable, boxes, check_caps, number
from data.prompts import Template, parse, render, response
from data.records import Problem, Verdict
from data.verifiers import VERIFIERS, Verifier, program_of, verify, verify_all
from data.world.families import REASONING
from data.world.graded import GRADED
from data.world.rewrite import summary

SLOW = r"(x+y+z+w)^{100}"  # sympy expands it for minutes
COUNTDOWN = json.dumps({"numbers": [1, 2, 5], "target": 15})
ADD = json.dumps([{"input": "1 2", "output": "3"}, {"input": "5 6\n", "output": "11\n"}])
SUM = "a, b = map(int, input().split())\nprint(a + b)"


def problem(solution: str, verifier: str = "math") -> Problem:
    return Problem("p/1", "p", "chain", "en", "question", solution, verifier)


def zero(answer: str) -> str:
    return f"<think>so</think> <answer>{answer}</answer>"


def chat(answer: str) -> str:
    return f"<think>so</think> {answer}"


def judged(solution: str, answer: str, verifier: str = "math") -> Verdict:
    return verify(problem(solution, verifier), zero(answer), "zero")


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("391", "391"),
        ("391", "\n 391 .\n"),
        ("391", "391。"),
        ("-7", "−7"),
        ("1/2", "0.5"),
        ("0.5", r"\frac{1}{2}"),
        (r"\frac{1}{2}", "1/2"),
        (r"\frac{1}{2}", r"\dfrac 12"),
        (r"\frac{1}{2}", r"\(\frac{ 1 }{ 2 }\)"),
        ("1,000", "1000"),
        ("1000", "1,000"),
        ("3000", r"3\times 10^{3}"),
        ("5", r"5\text{ cm}"),
        ("5", r"$\boxed{5}$"),
        ("5", "**5**"),
        ("42", "the answer is 42"),
        ("42", r"the answer is \boxed{ 42 }."),
        ("42", "答案是 42。"),
        ("42", "x = 42"),
        ("42", r"**Answer:** \boxed {42}"),
        ("42", "**Answer:** 42"),
        ("1000000", r"1{,}000{,}000"),
        ("1000000", r"1\,000\,000"),
        ("3/2", "1 1/2"),
        ("3/2", r"1\tfrac12"),
        ("-1/2", r"\frac{1}{-2}"),
        ("42", r"first 3 + 39, so \boxed{42}"),
        ("42", r"\boxed{42} and again \boxed{ 42 }"),
        ("42", r"\boxed{41 \boxed{42}"),
        ("42", r"\boxed{41}, no: \boxed{42} and \boxed{43"),
        ("x+1", "x + 1"),
        ("x+1", "1+x"),
        ("x+1", r"\boxed{\frac{2x+2}{2}}"),
        ("(1,2)", "(1, 2)"),
        ("C A B D", "C  A B D"),
    ],
)
def test_right_answers_are_correct(gold: str, answer: str) -> None:
    assert judged(gold, answer).status == "correct"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", "41"),
        ("42", r"\boxed{42} \boxed{41}"),
        ("1/2", "0.51"),
        ("1,000", "1"),
        ("x+1", "x+2"),
        ("C A B D", "A C B D"),
        ("yes", "sey"),
    ],
)
def test_wrong_answers_are_wrong(gold: str, answer: str) -> None:
    assert judged(gold, answer).status == "wrong"


@pytest.mark.parametrize(
    "answer",
    [
        "1, 2, 3, 41, 42",
        "41 42",
        "41 or 42",
        "it is 41. the answer is 42",
        r"\boxed{\boxed{42}}",
        r"\boxed{}",
        r"\boxed{42",
        "６*7",
        "４２",
        "٤٢",
        "4\u200b2",
        "\ufeff42",
        "40 + 2",
        "6**2 + 6",
        "42!",
        r"42^{1}",
        "not 42",
        "4 2/1",
        "41 4/2",
        r"4\,2",
        "-x = 42",
        "x != 42",
        "log x = 42",
        "I doubt that it is 42",
        "也许是42",
        "the answer is not: 42",
        "2^{10000000000}",
        "9" * 10_000,
        "(" * 5000 + "42" + ")" * 5000,
        "",
    ],
)
def test_cheats_for_a_number_are_unparseable(answer: str) -> None:
    assert judged("42", answer).status == "unparseable"


@pytest.mark.parametrize(
    "answer",
    [
        "2^{10000000000}",
        "9^{9^{9^{9}}}",
        "9**9**9",
        "(((9^{99})^{99})^{99})^{99}",
        "((10!)!)!",
        "9" * 150,
        "(" * 90 + "x" + ")" * 90,
        "x+1 or x+2",
        "x+1, x+2",
        "x+1 和 x",
    ],
)
def test_cheats_for_an_expression_never_reach_sympy(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "compare", None)
    assert judged("x+1", answer).status == "unparseable"


@pytest.mark.parametrize(
    ("template", "completion"),
    [
        ("zero", "42"),
        ("zero", "<answer>42</answer>"),
        ("zero", "<think>42</think>"),
        ("zero", "<think>a</think> <answer>42</answer> <answer>42</answer>"),
        ("zero", "<think>a</think> <answer><answer>42</answer></answer>"),
        ("zero", "<think>a</think> <answer> </answer>"),
        ("zero", "<think>a</think> <answer>42</answer> 42"),
        ("zero", r"<think>\boxed{42}</think>"),
        ("chat", r"\boxed{42}"),
        ("chat", r"<think>\boxed{42}</think>"),
        ("chat", r"<think>a</think> \boxed{42} </think>"),
        ("chat", r"<think>a <think> b</think> \boxed{42}"),
    ],
)
def test_an_answer_counts_only_in_its_place(template: Template, completion: str) -> None:
    assert verify(problem("42"), completion, template) == Verdict("unparseable", None, "malformed")


def test_chat_takes_the_box_after_the_thinking() -> None:
    completion = r"<think>perhaps \boxed{41}</think> the answer is \boxed{42}."
    assert verify(problem("42"), completion, "chat") == Verdict("correct", "42", "same text")


def test_boxes_balance_braces() -> None:
    assert boxes(r"\boxed{\frac{1}{2}} then \boxed{ {x} } and \boxed{open") == [r"\frac{1}{2}", " {x} "]


@pytest.mark.parametrize("text", ["", "-", ".", "1,00", "1.", "1/0", "1e999", "0x1", "1_0", "１", "1" * 31, "a"])
def test_what_is_no_number(text: str) -> None:
    assert number(text) is None


@pytest.mark.parametrize(
    "answer",
    ["B", "b", "(B)", "B.", "**B**", r"\boxed{B}", r"\boxed{\text{B}}", "option B", "The answer is (B).",
     "I choose B", "I would pick option B.", "It's B.", "The correct option is B: 46 + 27", "B: 46 + 27",
     "Therefore, the correct choice is **B**.", "B is correct.", "Option B is the correct answer", "(B) is right",
     "选B", "选项 B", "答案是 B。", "答案为B", "我选 B", "故选：B。", "应该选 B", "选B项", "B选项", "B 项正确",
     "B是正确的", "正确答案: B", "正确选项是 B", "因此，答案是B。", "B选项是正确答案"],
)  # fmt: skip
def test_ways_of_saying_one_option(answer: str) -> None:
    assert judged("B", answer, "choice") == Verdict("correct", "B", "option")
    assert judged("C", answer, "choice").status == "wrong"


@pytest.mark.parametrize(
    "answer",
    ["A B C D", "ABCD", "A or B", "A, B", "B. A", "not B", "the answer is not B", "A is B", "Ｂ", "B\u200b",
     "BB", "?", r"\boxed{A or B}", "不选 B", "A 或 B", "B is not correct", "A is wrong, B is correct", "B选项错误",
     "B 不正确", "不是 B 正确", "A和B是正确的", "neither A nor B", "选项", "is correct"],
)  # fmt: skip
def test_several_options_or_none_are_unparseable(answer: str) -> None:
    assert judged("B", answer, "choice").status == "unparseable"


@pytest.mark.parametrize("answer", ["(1+2)*5", "5 * (2 + 1) = 15", r"\boxed{(1+2)\times 5}", "(1 + 2) × 5"])
def test_expressions_that_reach_the_target(answer: str) -> None:
    assert judged(COUNTDOWN, answer, "expression").status == "correct"


@pytest.mark.parametrize(
    "answer",
    ["15", "3*5", "5*2+5", "1+2*5", "(1+2)*5 = 16", "1.5*2*5", "15//1", "99**98**97", "5/(1-1)*2", "True*15",
     "1_5", "-(-15)", "(" * 80 + "15" + ")" * 80, "(1+2)*5, 15", "__import__('os')", "１5", "(1+2)*5 # 2"],
)  # fmt: skip
def test_expressions_that_cheat(answer: str) -> None:
    assert judged(COUNTDOWN, answer, "expression").status in ("wrong", "unparseable")


@pytest.mark.parametrize("answer", [SUM, f"```python\n{SUM}\n```", f"the program is ```python\n{SUM}\n```\ndone"])
def test_programs_that_pass(answer: str) -> None:
    assert judged(ADD, answer, "code").status == "correct"


def test_a_program_names_the_test_that_it_fails_but_not_its_output() -> None:
    verdict = judged(ADD, "print(3)", "code")
    assert verdict == Verdict("wrong", "print(3)", "test 2 of 2: wrong_output 2 bytes printed")


def test_equal_programs_run_once_and_verdicts_keep_their_order() -> None:
    count = "import time\nprint(time.time_ns())"
    echo = json.dumps([{"input": "", "output": "never"}])
    jobs = [
        (problem(echo, "code"), zero(count)),
        (problem("42"), zero("42")),
        (problem(echo, "code"), zero(count)),
    ]
    first, second, third = verify_all(jobs, "zero")
    assert first is third
    assert (first.status, second.status) == ("wrong", "correct")


def test_hostile_answers_spoil_none_behind_them() -> None:
    hostile = [(problem("x+y+z+w"), zero(SLOW + f"+{n}")) for n in range(1, 5)]
    good = [(problem("x+1"), zero(rf"\frac{{{n}x+{n}}}{{{n}}}")) for n in range(2, 22)]
    verdicts = verify_all([*hostile, *good, *hostile], "zero", workers=2, timeout_s=1.0)
    assert [verdict.status for verdict in verdicts] == ["timeout"] * 4 + ["correct"] * 20 + ["timeout"] * 4


def gold_problem(name: str, item: Any, rng: Random) -> Problem:
    family = REASONING[name]
    prompt = family.question(item, "en", rng)
    return Problem("p/1", item.key, name, "en", prompt, family.solution(item, "en"), family.verifier)


COUNTS = {name: 20 if name == "code" else 100 if name in GRADED else 500 for name in REASONING}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_every_gold_answer_verifies_and_a_near_miss_does_not(name: str, count: int) -> None:
    family, rng = REASONING[name], Random(7)
    right: list[tuple[Problem, str]] = []
    wrong: list[tuple[Problem, str]] = []
    for place in range(count):
        item = family.draw(rng)
        asked, language = gold_problem(name, item, rng), ("en", "zh")[place % 2 if name not in GRADED else 0]
        right += [(asked, chat(summary(family.verifier, language, family.answer(item))))]
        wrong += [(asked, chat(summary(family.verifier, language, family.miss(item, rng))))]
        assert verify(asked, zero(family.answer(item)), "zero").status == "correct"
    assert {verdict.status for verdict in verify_all(right, "chat")} == {"correct"}
    assert {verdict.status for verdict in verify_all(wrong, "chat")} == {"wrong"}


@pytest.mark.parametrize("name", [name for name in REASONING if name != "code"])
def test_another_sign_digit_unit_or_order_is_not_correct(name: str) -> None:
    family, rng = REASONING[name], Random(8)
    for _ in range(30 if name in GRADED else 100):
        item = family.draw(rng)
        asked = gold_problem(name, item, rng)
        gold = family.answer(item)
        digits = f"{gold[1:]}{gold[0]}" if " " not in gold else " ".join(gold.split()[1:] + gold.split()[:1])
        misses = {f"-{gold}", f"{gold}7", f"{gold} km", rf"{gold}\%", digits, f"{gold}, {gold}1"}
        for miss in misses - {gold, "-0"}:
            for said in (miss, rf"the answer is \boxed{{{miss}}}"):
                verdict = verify(asked, chat(said), "chat")
                assert verdict.status != "correct", (said, gold)


@pytest.mark.parametrize("gold", [r"\frac{", "4\u200b2"])
def test_a_gold_that_does_not_parse_is_no_fault_of_the_answer(gold: str) -> None:
    assert judged(gold, "x").status == "infra_error"


@pytest.mark.parametrize(
    ("verifier", "message"),
    [(name, f"unknown verifier '{name}'; allowed: math, choice, code, expression")
     for name in ("helpful", "harmless", "reasoning_gym", "math:5", "")]
    + [("judge", "the verifier 'judge' needs a judge, and none is given")],
)  # fmt: skip
def test_what_cannot_be_judged_is_refused(verifier: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judged("42", "42", verifier)


@pytest.mark.parametrize(
    ("prompt", "completion", "whole"),
    [
        ("2 + 2?", "<think>a</think> 4", "<think>a</think> 4"),
        ("2 + 2?", "a</think> 4", "a</think> 4"),
        ("2 + 2? <think>", "a</think> 4", "<think>a</think> 4"),
        ("2 + 2?<think>\n", "a</think> 4", "<think>a</think> 4"),
        ("2 + 2?<think>\n", "<think>a</think> 4", "<think><think>a</think> 4"),
        ("what is <think> for?", "a</think> 4", "a</think> 4"),
    ],
)
def test_think_stands_before_a_completion_exactly_when_the_prompt_ends_with_it(
    prompt: str, completion: str, whole: str
) -> None:
    assert response(prompt, completion) == whole
    assert parse(whole, "chat").well_formed == (whole.count("<think>") == 1)
    for template in ("zero", "chat"):  # neither ends so, whatever the question ends with
        assert response(render(prompt, template), completion) == completion


def test_a_long_hostile_text_is_read_in_linear_time() -> None:
    many = 200_000
    assert boxes("\\boxed{" * many + "42" + "}" * 2) == [r"\boxed{42}"]
    assert boxes(r"\boxed{1}" * many) == ["1"] * many
    for text in ("\\boxed{" * many, " " * many + "42" + " " * many + "x", "**" * many, r"\text{" * many, "(" * many):
        assert judged("42", text).status == "unparseable"
    for tag in ("<think>", "</think> <answer>", "</answer>", "</think>"):
        assert verify(problem("42"), "<think>" + tag * many + "42</answer>", "zero").answer is None
        assert verify(problem("42"), "<think>" + tag * many + "42", "chat").answer is None


OPTIONS = json.dumps({"answer": "B", "options": {"A": "red", "B": "dark green", "C": "$x+1$"}})


@pytest.mark.parametrize("answer", ["B", "dark green", "Dark Green.", "the answer is dark green", "选 dark green",
                                    "B. dark green", "(B) dark green", r"\boxed{\text{dark green}}"])  # fmt: skip
def test_an_option_may_be_given_by_its_text(answer: str) -> None:
    assert judged(OPTIONS, answer, "choice").status == "correct"


@pytest.mark.parametrize(
    ("answer", "status"),
    [("red", "wrong"), ("x+1", "wrong"), ("C", "wrong"), ("B. red", "unparseable"), ("green", "unparseable"),
     ("red dark green", "unparseable"), ("not dark green", "unparseable"), ("red or dark green", "unparseable")],
)  # fmt: skip
def test_the_text_of_another_option_or_of_several_is_not_correct(answer: str, status: str) -> None:
    assert judged(OPTIONS, answer, "choice").status == status


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (f"```py\nprint(4)\n```\nor\n```python3\n{SUM}\n```", "correct"),
        (f"```\n{SUM}\n```", "correct"),
        (f"```python\n{SUM}\n```\n```text\n3\n```", "correct"),
        (f"```haskell\n{SUM}\n```", "unparseable"),
        (f"```python\n{SUM}", "unparseable"),
    ],
)
def test_the_tag_of_a_fence_names_the_language(answer: str, status: str) -> None:
    assert judged(ADD, answer, "code").status == status


def test_a_verifier_counts_its_work_and_what_was_waited_for() -> None:
    with Verifier() as verifier:
        easy = verifier.submit(problem("42"), zero("42"), "zero")
        assert easy.done()
        hard = verifier.submit(problem("x+1"), zero("1+x"), "zero")
        again = verifier.submit(problem("x+1"), zero("1+x"), "zero")
        assert again is hard
        assert [each.status for each in verifier.wait([easy, hard])] == ["correct", "correct"]
        assert verifier.work_s > 0
        assert verifier.wait_s > 0


def test_the_exact_path_loads_no_sympy() -> None:
    check = (
        "import sys; from data.records import Problem; from data.verifiers import verify;"
        "problem = Problem('a', 'a', 'f', 'en', 'q', '42', 'math');"
        "verify(problem, '<think>a</think><answer>42.0</answer>', 'zero');"
        "sys.exit('sympy' in sys.modules or 'math_verify' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_a_letter_is_a_letter_even_where_an_option_says_so() -> None:
    crossed = json.dumps({"answer": "B", "options": {"A": "B", "B": "A", "C": "C. elegans"}})
    assert judged(crossed, "B", "choice") == Verdict("correct", "B", "option")
    assert judged(crossed, "C. elegans", "choice") == Verdict("wrong", "C", "text of an option")


@pytest.mark.parametrize(
    ("verifier", "text"),
    [
        ("reasoning_gym:countdown", "2^" + " " * 19_000 + "101"),
        ("reasoning_gym:countdown", "2^{" * 6_000),
        ("reasoning_gym:countdown", "2^(" + "2" * 19_000),
        ("reasoning_gym:countdown", "." + " " * 19_000 + "2"),
        ("code", "```" + "a" * 100_000),
        ("code", "```" + "a`" * 50_000),
        ("code", "```a\n" * 40_001 + "```rust"),
        ("code", "``` " * 50_000 + "\n"),
        ("math", "\\boxed{" + "{" * 100_000 + "}" * 100_000),
        ("math", "\\boxed{" + "\\text{" * 50_000 + "}" * 50_001),
        ("math", "\\boxed{1" + " " * 100_000 + "\\text{a} " * 10_000 + "}"),
        ("math", "\\boxed{" * 50_000),
        ("math", "\\boxed{2^" + " " * 100_000 + "2}"),
        ("choice", "is " * 60 + "A"),
        ("math", "1^" * 99),
        ("math", "( " * 90 + "1"),
    ],
)
def test_reading_a_hostile_answer_takes_time_in_proportion_to_it(verifier: str, text: str) -> None:
    gold = {"math": "x", "choice": "A", "code": '[{"input": "", "output": ""}]'}.get(verifier, '{"answer": "1"}')
    problem = Problem("p", "p", "p", "en", "?", gold, verifier)
    begun = time.process_time()
    with suppress(Unparseable):
        VERIFIERS[verifier.partition(":")[0]](text, problem)
    assert time.process_time() - begun < 2.0


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\na\n```", "a\n"),
        ("so ```py title=x\na``` and ```\nb\n```", "b\n"),
        ("```a``` then\n```\nb```", "b"),
        ("```\na\n```\n```python\nopen", "a\n"),
        ("no fence", "no fence"),
    ],
)
def test_the_last_fenced_block_is_the_program(text: str, code: str) -> None:
    assert program_of(text) == (code, "python")


@pytest.mark.parametrize(
    ("answer", "capped"),
    [
        ("x^2y^3", False), ("x^{10}y^{3}", False), ("(x^2)^3", False), ("x**2*y**3", False), ("2^9^9", True),
        ("2**9**9", True), ("2^{x^2}", True), ("2^(x**2)", True), ("2^ 9 ^ 9", True), ("2^{ (x)^2 }", True),
        ("2^{x}^2", False), ("1" * 31, True), ("1 " * 31, True), ("x^{- 101}", True), ("x^{100}", False), ("5!", True),
    ],
)  # fmt: skip
def test_caps_refuse_what_would_be_huge_and_nothing_else(answer: str, capped: bool) -> None:
    with pytest.raises(Unparseable, match="too large") if capped else nullcontext():
        check_caps(answer)
