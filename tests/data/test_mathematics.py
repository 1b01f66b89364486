"""Answers that are right in another form, and those that math-verify would take and a reward must not."""

import pytest

from data.answers import Unparseable, number
from data.mathematics import Symbolic, judge
from data.measures import Measured, measured
from data.oracle import exact
from data.records import Problem, Verdict
from data.verifiers import verify_all


def asked(gold: str, prompt: str = "question") -> Problem:
    return Problem("p", "p", "p", "en", prompt, gold, "math")


def first(gold: str, answer: str, prompt: str = "question") -> Verdict | Symbolic:
    """The verdict, or what is left to sympy."""
    try:
        return judge(answer, asked(gold, prompt))
    except Unparseable as why:
        return Verdict("unparseable", answer, str(why))


RIGHT = [
    # units
    (r"5\text{ cm}", "5"), (r"5\text{ cm}", "5 cm"), ("5 cm", r"5\,\mathrm{cm}"), ("5", r"5\text{ cm}"),
    (r"5\text{ centimeters}", r"5\text{ cm}"), (r"5\text{ cm}^2", r"5\text{ square centimeters}"),
    (r"5\text{ cm}^2", "5"), ("3", r"3\text{ feet}"), (r"90^\circ", "90"), ("90", r"90^{\circ}"), (r"\$5", "5"),
    ("5", r"\$5"), (r"5\%", "5"), (r"5\%", "0.05"), (r"5\%", "5 \\%"), (r"5\text{ million}", "5000000"),
    ("3000", r"3\text{ thousand}"), ("1010_2", "1010"), ("1010_2", r"1010_{2}"), (r"5\text{ apples}", "5 apples"),
    (r"5\text{ apples}", "5"), ("5", r"\text{The answer is }5\text{ cm}"), (r"\frac{3}{2}\text{ m}", r"1.5\text{ m}"),
    # numbers
    (r"1\frac{1}{2}", r"\frac{3}{2}"), ("12.5", r"12\frac{1}{2}"), (r"\frac{2}{4}", "0.5"), ("0.5", r"\frac{2}{4}"),
    # formulas
    ("x+1", "y = x+1"), ("x+1", "f(x)=x+1"), ("x=5", "5"), ("5", "x=5"), ("y=2x+1", "2x+1=y"), ("y=2x+1", "2x+1"),
    ("x<3", "3>x"), ("x<3", r"(-\infty,3)"), (r"\sqrt{8}", r"2\sqrt{2}"), (r"\sqrt{2}", r"2^{1/2}"),
    (r"\log_{2}3", r"\frac{\ln 3}{\ln 2}"), (r"\sin x", r"\cos x\tan x"), ("e^x", r"\exp(x)"), ("0.5x", r"\frac{x}{2}"),
    ("2.5x+1", r"\frac{5x}{2}+1"), (r"x^{2}y^{3}", "x^2y^3"), ("(x-1)(x+1)", "(x+1)(x-1)"), (r"2^{10}", "1024"),
    ("x+1", "1+x"), ("2x+1", r"1+2\cdot x"), ("1+2i", r"1+2\cdot i"), ("i", r"\sqrt{-1}"), ("2i", r"\sqrt{-4}"),
    ("x^2", "x**2"), ("x^2", "x²"), ("2x", "2·x"), (r"2\pi", "2π"), (r"\frac{\sqrt{3}}{2}", "√3/2"), (r"\infty", "∞"),
    (r"x\leq 3", "x<=3"), (r"\sqrt{2}+\sqrt{3}", r"\sqrt{3}+\sqrt{2}"), ("x+x", "2x"), ("x+x", "x+x+0x"),
    # intervals
    (r"[1,\infty)", r"x\ge1"), (r"[1,\infty)", r"x\geq 1"), (r"[1,\infty)", r"1\le x"), (r"[1,\infty)", "x >= 1"),
    (r"[1,\infty)", r"x \in [1, \infty)"), (r"(-\infty,3)", "x<3"), ("(1,2]", r"1 < x \leq 2"),
    ("(1,2]", r"2 \ge x > 1"),
    (r"\left[1,\infty\right)", r"x\geq 1"), (r"(-\infty,\sqrt{2}]", r"x\leq\sqrt{2}"),
    # lists
    ("1,2", "x=1, x=2"), ("1,2", "x=2 or x=1"), ("1,2", "x_1=2, x_2=1"), ("1,2", "1 或 2"), (r"\{1,2\}", "{2, 1}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"), ("(1,2)", "（1，2）"),
    (r"\{1,2\}", r"\{2,1\}"), ("1,2", "2,1"), ("1, 2", "1 and 2"), (r"\{1,2\}", "1,2"), ("(1,2)", "( 1 , 2.0 )"),
    (r"(1,2)\cup(3,4)", r"(3,4)\cup(1,2)"), ("a=1,b=2", "b=2,a=1"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"),
    # words
    ("Yes", "yes"), (r"\text{Evelyn}", "Evelyn"), (r"\text{(C)}", "C"), ("Tuesday", "it is tuesday"),
]  # fmt: skip

NOT_RIGHT = [
    # units
    (r"5\text{ cm}", r"5\text{ km}"), ("5 cm", "5 km"), ("5 cm", r"5\text{ km}"), (r"5\text{ cm}", "5 km"),
    (r"5\text{ cm}^2", r"5\text{ cm}^3"), (r"5\text{ cm}^2", r"5\text{ cm}"), ("5", "5 cm"), ("5", r"5\text{%}"),
    ("5", r"5\%"), ("0.05", r"5\%"), (r"5\%", r"0.05\%"), (r"5\text{ thousand}", "5"), ("5", r"5\text{ thousand}"),
    ("5", r"5\text{ million}"), ("5", r"5\text{ dozen}"), ("5", r"5\text{ or six}"), ("5", r"5\text{ is wrong}"),
    ("5", r"5\text{ (wrong)}"), ("5", r"5\text{ not}"), ("10_2", "10_3"), ("10", "10_2"),
    (r"5\text{ apples}", "5 pears"),
    (r"\$5", r"5\text{ euros}"), (r"90^\circ", r"80^\circ"), (r"90^\circ", r"90\text{ rad}"),
    # numbers
    ("5", "2+3"), ("2", r"\frac{4}{2}"), ("2", "6/3"), ("1.5", r"2\frac{1}{2}"), ("1", r"2\frac{1}{2}"), ("3,4", "34"),
    (r"\frac13", "0.33"), (r"\frac{1}{3}", "0.333333333333"), (r"\pi", "3.14159265"), (r"\sqrt{2}", "1.41421356"),
    (r"\pi", "3.14159265358979323846"), (r"2\pi x", "6.283185307179586x"),
    # work left to the verifier
    (r"\frac{\pi}{2}", r"\int_0^1 \frac{\pi}{2} dx"), ("2x", r"\frac{d}{dx} x^2"), (r"\pi", r"\sum_{k=1}^{1} \pi"),
    (r"\sqrt{2}", r"\lim_{x\to 0} \sqrt{2}"), (r"\sqrt{2}", r"\max(\sqrt{2}, 1)"), (r"\sqrt{2}", r"|-\sqrt{2}|"),
    (r"\frac{\sqrt{3}}{2}", r"\sin(\pi/3)"), ("x", r"e^{\ln x}"), ("x", r"\frac{0}{0}"), (r"\infty", r"\frac{1}{0}"),
    ("x+1", "x+2-1"), ("x+1", "x+x+1-x"), ("x+1", "1+x+0"), ("x+1", r"x+1\cdot 1"), ("x+1", "(x+1)(1)"),
    ("x+1", "x+1^x"),
    ("x+1", "(x+1)^1"), ("6x", r"2\cdot 3x"), ("6x", r"2 \times 3 \cdot x"), ("x^3", "x^{2+1}"),
    (r"3\sqrt{2}", r"\sqrt{2}+2\sqrt{2}"),
    (r"(1,2x+1)", "(1,x+x+1)"), ("x+1", "x+1'"), ("x+1", "x+1?"), ("x^2", "x^2}"), ("x+1", "x+1)"),
    ("i", r"-\sqrt{-1}"), ("i", r"\sqrt{1}"), ("x", r"\sqrt{-1}"), ("2i", r"\sqrt{-2}"), ("x^2", "x²³"), ("x^2", "x³"),
    (r"\sqrt{2}", "√3"), ("2x", "2·y"),
    # intervals
    (r"[1,\infty)", "x>1"), (r"[1,\infty)", r"x\le 1"), (r"[1,\infty)", r"x\ge 2"), (r"[1,\infty)", "x=1"),
    (r"[1,\infty)", "1"),
    (r"[1,\infty)", r"x\ge 1, x\ge 2"), (r"[1,\infty)", r"x\ge x"), (r"[1,\infty)", r"x\ge y"),
    (r"[1,\infty)", r"x\ge 1\ge 0"),
    (r"[1,\infty)", r"x\ge 1 \text{ or } x<0"), ("(1,2]", r"1\le x\le 2"), ("(1,2]", "1<x>2"), ("(1,2]", "x>1"),
    ("(1,2)", "1<x<2"),
    ("[1,2]", r"1\le x\le 2"), (r"[1,\infty)", r"x\in (1,\infty)"), (r"(1,\infty)", r"[1,\infty)"),
    # several values
    ("5", "x=5=6"), ("5", "4=5"), ("5", "x=4=5"), ("x+1", "y=x+2=x+1"), ("x+1", "x+2=x+1"), ("x+1", "x+1=x+2"),
    (r"\sqrt{2}", r"\sqrt{3}=\sqrt{2}"), (r"\sqrt{2}", r"\sqrt{2}\approx 1.414"), (r"\sqrt{2}", r"x<\sqrt{2}"),
    ("y=2x+1", "y=2x+2=2x+1"), ("x=1", "x=1 or x=2"), (r"\sqrt{2}", r"\pm\sqrt{2}"), (r"\pm\sqrt{2}", r"\sqrt{2}"),
    ("2", r"\pm 2"), ("x<3", r"x\leq 3"), ("x<3", "3"), ("5", r"x\geq 5"), ("5", r"x\ne 5"), ("x+1", r"\{x+1, x+2\}"),
    ("x+1", r"x+1 \\ x+2"), ("x+1", r"x+1\lor x+2"), ("x+1", r"x+1 \quad x+2"), ("x+1", r"x+1 \mbox{or} x+2"),
    ("x+1", r"x+1 \text{ is wrong}"), ("x+1", r"\neg(x+1)"), ("x+1", r"x+2 \Rightarrow x+1"), ("x+1", "x+1 | x+2"),
    ("x+1", r"\begin{cases} x+1 \\ x+2 \end{cases}"), ("x+1", r"x+1 \in \{x+1,x+2\}"), ("x+1", r"\cancel{x+2} x+1"),
    # lists
    ("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"), ("[1,2]", "(1,2)"), (r"\{1,2\}", "(1,2)"), ("(1,2)", r"\{1,2\}"),
    ("1,2", "1"), ("1,2", "1,2,3"), ("1,2", "1,2,2"), (r"\{1,2\}", r"\{1,1,2\}"), (r"(1,2)\cup(3,4)", "(1,4)"),
    (r"[1,\infty)", r"(1,\infty)"), ("a=1,b=2", "a=2,b=1"),
    ("1,2", "x=1, y=2"), ("1,2", "x=1, x=3"), ("1,2", "x=1"), ("x+1", r"\{x+1\}"), ("x+1", "[x+1]"),
    (r"\{1,2\}", r"\{1\},\{2\}"), (r"\{1,2\}", "{1, 3}"), ("1,2", "1 或 3"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 3 \end{pmatrix}"),
    # names and words
    ("x+1", "y+1"), ("x+1", "X+1"), ("AB", "BA"), (r"\alpha+1", r"\beta+1"), ("x_1+1", "x_2+1"), ("yes", "yes or no"),
    ("yes", "yes and no"), ("even", "not even"), ("AB", "ab"),
]  # fmt: skip


def test_right_answers_in_another_form_are_correct() -> None:
    jobs = [(asked(gold), f"<think>a</think> <answer>{answer}</answer>") for gold, answer in RIGHT]
    verdicts = verify_all(jobs, "zero", timeout_s=10.0)
    missed = [(pair, verdict) for pair, verdict in zip(RIGHT, verdicts, strict=True) if verdict.status != "correct"]
    assert missed == []


def test_what_differs_in_a_unit_a_value_or_its_form_is_not_correct() -> None:
    jobs = [(asked(gold), f"<think>a</think> <answer>{answer}</answer>") for gold, answer in NOT_RIGHT]
    verdicts = verify_all(jobs, "zero", timeout_s=10.0)
    taken = [(pair, verdict) for pair, verdict in zip(NOT_RIGHT, verdicts, strict=True) if verdict.status == "correct"]
    assert taken == []
    assert {verdict.status for verdict in verdicts} <= {"wrong", "unparseable"}


@pytest.mark.parametrize(
    ("prompt", "gold", "answer"),
    [
        ("What is 6/8 in lowest terms?", "3/4", "6/8"),
        ("Write 0.5 as a fraction.", r"\frac{1}{2}", "0.5"),
        ("Convert $\\frac{1}{2}$ to a decimal.", "0.5", r"\frac{1}{2}"),
        ("Expand $(x-1)(x+1)$.", "x^2-1", "(x-1)(x+1)"),
        ("Expand (x - 1)(x + 1).", "x^2-1", "(x-1)(x+1)"),
        ("Factor x^2 - 1.", "(x-1)(x+1)", "x^2-1"),
        ("分解因式 x^2 − 1。", "(x-1)(x+1)", "x^2-1"),
        ("Simplify $\\sqrt{8}$.", r"2\sqrt{2}", r"\sqrt{8}"),
        ("If $y = 2(x+1) - 1$, expand y.", "2x+1", "y = 2(x+1)-1"),
        (r"Simplify $\frac{x^2-1}{x-1}$.", "x+1", "(x^2-1)/(x-1)"),
        (r"Simplify $\frac{x^2-1}{x-1}$.", "x+1", r"\frac{-1+x^2}{-1+x}"),
        (r"Simplify $\frac{x^2-1}{x-1}$.", "x+1", r"1\cdot\frac{(x^2-1)}{x-1}"),
        ("What is 6/8 in lowest terms?", "3/4", r"\frac{6}{8}"),
    ],
)
def test_what_stands_in_the_question_is_no_answer(prompt: str, gold: str, answer: str) -> None:
    assert first(gold, answer, prompt) == Verdict("unparseable", answer, "stands in the question")
    assert first(gold, gold, prompt) == Verdict("correct", gold, "same text")


@pytest.mark.parametrize(
    ("prompt", "gold", "answer"),
    [
        ("Which is larger, 3/4 or 1/2?", "3/4", "3/4"),
        ("Which is largest: 1,000, 500 or 20?", "1000", "1,000"),
        ("What is f(x+1) for f(x) = x?", "1+x", "x+1"),
        ("What comes after 1 + 1 + x?", "1+x", "x+1"),
        ("What is the opposite of a - b?", "b-a", "-a+b"),
        ("What is (a - b)(-1)?", "b-a", "(b-a)"),
    ],
)
def test_a_part_of_a_formula_in_the_question_may_be_its_answer(prompt: str, gold: str, answer: str) -> None:
    found = first(gold, answer, prompt)
    assert found == Symbolic(gold, answer) or (isinstance(found, Verdict) and found.status == "correct")


def test_a_product_is_asked_for_where_the_question_says_factor() -> None:
    assert first("(x-1)(x+1)", "x^2+x-x-1", "Factor x^2 - 1.") == Verdict("wrong", "x^2+x-x-1", "not factored")
    assert first("(x-1)(x+1)", "-(1-x)(x+1)", "Factor x^2 - 1.") == Symbolic("(x-1)(x+1)", "-(1-x)(x+1)")
    assert isinstance(first("(x-1)(x+1)", "x^2-1", "Simplify it."), Symbolic)


COUNTS = [
    ("How many apples has Tom left?", ["5\\text{ apples}", "5 apples", "5 apple", "5 Apples", "it is 5 apples"]),
    ("How many red apples are there?", ["5 red apples", "5 apples"]),
    ("汤姆还剩多少个苹果？", ["5个苹果", "5\\text{ 个苹果}", "5 个", "5苹果"]),
    ("有几只鸡？", ["5只鸡", "5只"]),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "answers"), COUNTS)
def test_what_is_counted_may_stand_beside_the_number(prompt: str, answers: list[str]) -> None:
    for answer in answers:
        assert first("5", answer, prompt) == Verdict("correct", "5", "exact"), answer
        assert first("6", answer, prompt) == Verdict("wrong", "5", "exact"), answer
        assert first("5", answer, "How much is it?").status == "unparseable"


@pytest.mark.parametrize(
    "answer",
    ["5 pears", "5\\text{ pears}", "5 apples or 6", "5 or apples", "5 apples 6", "5, 6 apples", "5 not apples",
     "5 apples wrong", "5个梨", "5 apples/2"],
)  # fmt: skip
def test_no_other_words_may(answer: str) -> None:
    assert first("5", answer, "How many apples does Tom have left?").status == "unparseable"


def test_decimals_are_held_against_sympy_as_fractions() -> None:
    assert first("x+1", "0.5x+.25") == Symbolic("x+1", "0.5x+.25")
    assert exact("0.5x+.25-3") == r"{\frac{05}{10}}x+{\frac{25}{100}}-3"
    assert exact("x^{0.50}") == r"x^{{\frac{050}{100}}}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"5\text{ cm}", Measured("5", "cm", True)),
        (r"$5\,\mathrm{cm}^{2}$.", Measured("5", "cm^2", True)),
        (r"5\text{ cubic feet}", Measured("5", "ft^3", True)),
        ("5 cm", Measured("5", "cm")),
        (r"5\text{ 厘米}", Measured("5", "cm", True)),
        (r"\$5.50", Measured("5.50", "dollar", True)),
        (r"3\text{ million dollars}", Measured("3", "dollar", True, 10**6)),
        ("3 million", Measured("3", factor=10**6)),
        (r"90^{\circ}", Measured("90", "degree", True)),
        ("12\\%", Measured("12", "%")),
        ("1A_{16}", Measured("1A", "base 16")),
        (r"5\text{ or six}", Measured("5", "or six")),
        (r"\text{east}", Measured("east")),
        ("5 x", Measured("5 x")),
        ("x_1", Measured("x_1")),
    ],
)
def test_units(text: str, expected: Measured) -> None:
    assert measured(text) == expected


@pytest.mark.parametrize(
    ("text", "value"), [(r"2\frac{1}{3}", "7/3"), (r"-2\frac{1}{3}", "-7/3"), (r"2 \frac{1}{0}", "None")]
)
def test_mixed_numbers(text: str, value: str) -> None:
    assert str(number(text)) == value
