"""The one answer that a text gives, read exactly or not at all.

If a text has `\\boxed{}` the last one with balanced braces is the answer; without a box the text is one answer,
perhaps led in by a few words ("the answer is", "答案是"), and nothing that offers several.

Normalisation, all of it: runs of white space become one space, the signs `−` and `×` `÷` `：` become ASCII and
those of mathematics (`π` `∞` `√2` `x²`) LaTeX, LaTeX that only sets type (`\\left`, `\\,`, `\\text{}`, `$`) goes away,
and so do the stars around a whole answer or the words before it. Digits outside ASCII and invisible characters make
an answer unparseable. Numbers are exact fractions.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Final

MAX_LENGTH: Final = 200  # characters of an answer that is no program
MAX_RAW: Final = 4000  # the same before normalisation, white space and typesetting included
MAX_DIGITS: Final = 30
MAX_EXPONENT: Final = 100
MAX_EXPONENT_PRODUCT: Final = 100_000  # of all exponents of one answer: (((2^9)^9)^9)^9
MAX_NESTING: Final = 12


class Unparseable(Exception):
    """There is no single answer to judge; the reason in a few words."""


_INVISIBLE = re.compile(r"[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufe00-\ufe0f]")
_TYPESETTING = re.compile(r"(?<!\\)(?:\\(?:left|right|displaystyle)(?![a-zA-Z])|\\[,;: ()\[\]]|\\?\$)")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|\\,)(?=[0-9]{3}(?![0-9]))")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{([^{}]*)\}")
_EMPHASIS = re.compile(r"\*\*([^*]*)\*\*")
_LED_IN = re.compile(r"\*\*([^*0-9]*:) ?\*\*")
_SIGNS = str.maketrans({
    "−": "-", "×": "*", "÷": "/", "·": r"\cdot ", "⋅": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "²": "^2", "³": "^3",
    "：": ":", "，": ",", "（": "(", "）": ")",
})  # fmt: skip
_ROOT = re.compile(r"√ ?([0-9]+|[A-Za-z])")
_CONNECTIVE = (
    r"(?:\b(?:is|are|equals|gives|get|be|[Oo]ption|[Cc]hoose|[Pp]ick|[Ss]elect)\b:?|['’]s\b|=|:|是|为|得到?|等于|选项?)"
)
_LEAD_IN = re.compile(rf"((?:[^0-9\\{{}}+*/^_<>()\[\]!-]|(?<=\w)-(?=\w)){{0,80}}?){_CONNECTIVE}\s*(?=\S)")
_HEDGE = re.compile(
    r"\b(?:not|never|or|maybe|either|except|neither|nor|nobody|unless|wrong|incorrect|doubt|hardly|perhaps)\b|n't"
    r"|\b(?:log|ln|lg|exp|sqrt|sin|cos|tan|abs)\b|[不非或错]|可能|也许|大概"
)
_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"[{}]")


def boxes(text: str) -> list[str]:
    """Contents of all `\\boxed{...}` with balanced braces, outermost only, in order. Linear in the text."""
    ends, opened = {}, []
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.end())
        elif opened:
            ends[opened.pop()] = brace.start()
    found: list[str] = []
    last = 0
    for box in _BOX.finditer(text):
        if box.start() >= last and box.end() in ends:
            last = ends[box.end()]
            found.append(text[box.end() : last])
    return found


def normal(text: str, *, keep_text: bool = False) -> str:
    """A short text without what only sets type; `keep_text` keeps `\\text{}`, which may hold a unit.

    Raises Unparseable for characters that hide what it says.
    """
    if not text.isascii():
        if _INVISIBLE.search(text):
            raise Unparseable("invisible characters")
        text = _ROOT.sub(r"\\sqrt{\1}", text.translate(_SIGNS))
        if any(char.isdigit() and not char.isascii() for char in text):
            raise Unparseable("digits outside ASCII")
    if "\\" in text or "$" in text or "{,}" in text:
        text = _THOUSANDS.sub(",", text.replace("\\!", ""))
        text = _TYPESETTING.sub(" ", text if keep_text else _TEXT.sub(r"\1", text))
    text = " ".join(text.split()).rstrip(" .。！")
    if "**" not in text:
        return text
    emphasis = _EMPHASIS.fullmatch(text)
    return emphasis[1].strip() if emphasis else _LED_IN.sub(r"\1", text, count=1)


def one_content(text: str) -> str:
    """The last box's content, or else the whole text. Raises Unparseable where that is not one short answer."""
    if _BOX.search(text):
        contents = boxes(text)
        if not contents:
            raise Unparseable("box without end")
        content = contents[-1]
    elif len(text) > MAX_RAW:
        raise Unparseable("too long")
    else:
        content = text
    answer = normal(content)
    if _BOX.search(answer):
        raise Unparseable("box in a box")
    if not answer:
        raise Unparseable("empty")
    if len(answer) > MAX_LENGTH:
        raise Unparseable("too long")
    return content


def one_answer(text: str) -> str:
    """The one answer of a text, normalised. Raises Unparseable where there is none."""
    return normal(one_content(text))


def without_lead_in(answer: str, until: re.Pattern[str] | None = None) -> str:
    """What is left of "the answer is 42", at the latest what matches `until`.

    Nothing before the answer may itself look like one; Unparseable where something hedges it.
    """
    while not (until and until.fullmatch(answer)) and (match := _LEAD_IN.match(answer)):
        if _HEDGE.search(match[1]):
            raise Unparseable("hedged")
        answer = answer[match.end() :]
    return answer


_NUMBER = re.compile(
    r"(?P<sign>[+-]?) ?(?:"
    r"(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.(?P<part>[0-9]+))?"
    r"(?: ?(?:e|(?:\\times|\\cdot|\*) ?10 ?\^) ?\{?(?P<exponent>[+-]?[0-9]{1,3})\}?)?"
    r"|(?:(?P<units0>[0-9]+) )?(?P<over0>[0-9]+) ?/ ?(?P<under0>[0-9]+)"
    r"|(?P<units1>[0-9]+) ?\\[dt]?frac ?\{ ?(?P<over1>[0-9]+) ?\} ?\{ ?(?P<under1>[0-9]+) ?\}"
    r"|\\[dt]?frac ?\{ ?(?P<over2>-?[0-9]+) ?\} ?\{ ?(?P<under2>-?[0-9]+) ?\}"
    r"|(?:(?P<units3>[0-9]+) ?)?\\[dt]?frac ?(?P<over3>[0-9]) ?(?P<under3>[0-9])"
    r")"
)
_LONG_NUMBER = re.compile(rf"[0-9][0-9,.]{{{MAX_DIGITS},}}")
_POWER = re.compile(r"\^|\*\*")
_EXPONENT = re.compile(r"(?:\^|\*\*)\{?[-+(]*([0-9]+)")
_ONE = re.compile(r"[0-9]+|[^\W\d]")  # an exponent without braces: x^2y^3 is a product, 2^9^9 is none
_CLOSING = {"{": "}", "(": ")"}


@lru_cache(maxsize=4096)
def number(text: str) -> Fraction | None:
    """An integer, decimal, fraction, mixed number, or one in scientific notation, exactly; None for anything else."""
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if match is None:
        return None
    parts = {name: each or "" for name, each in match.groupdict().items()}
    whole, part, exponent = parts["whole"], parts["part"], int(parts["exponent"] or 0)
    used = next((n for n in range(4) if parts[f"over{n}"]), 0)
    over, under, units = parts[f"over{used}"], parts[f"under{used}"], parts.get(f"units{used}", "")
    if max(len(whole) + len(part), len(over), len(under), len(units)) > MAX_DIGITS:
        return None
    value: Fraction | None = None
    if under:
        is_proper = int(under) != 0 and not (units and int(over) >= int(under))
        value = Fraction(int(units or 0)) + Fraction(int(over), int(under)) if is_proper else None
    elif (whole or part) and abs(exponent) <= MAX_EXPONENT:
        value = int(whole.replace(",", "") + part) * Fraction(10) ** (exponent - len(part))
    return -value if value is not None and parts["sign"] == "-" else value


def check_caps(answer: str) -> None:
    """Refuse what would make sympy build something huge. Linear in the answer."""
    written = "".join(answer.split())
    depth = deepest = 0
    for char in written:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        raise Unparseable("nested too deeply")
    if _LONG_NUMBER.search(written) or _is_tower(written) or "!" in written:
        raise Unparseable("too large")
    exponents = [int(digits) for digits in _EXPONENT.findall(written)]
    if max(exponents, default=0) > MAX_EXPONENT or math.prod(exponents) > MAX_EXPONENT_PRODUCT:
        raise Unparseable("exponents too large")


def _is_tower(written: str) -> bool:
    """Whether an exponent holds a power itself: the next power comes before what opens it is closed."""
    powers = list(_POWER.finditer(written))
    for power, following in pairwise(powers):
        between = written[power.end() : following.start()]
        closing = _CLOSING.get(between[:1])
        if _ONE.fullmatch(between) if closing is None else closing not in between:
            return True
    return False
