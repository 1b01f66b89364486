"""Units of measure at the end of an answer: `5\\text{ cm}`, `90^\\circ`, `\\$5`, `12 %`, `3 million`, `1010_2`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from data.answers import normal

_ALIASES: Final = {
    "mm": "millimeter millimetre 毫米", "cm": "centimeter centimetre 厘米", "dm": "decimeter decimetre 分米",
    "m": "meter metre 米", "km": "kilometer kilometre 千米 公里", "in": "inch inches 英寸", "ft": "foot feet 英尺",
    "yd": "yard 码", "mi": "mile 英里", "mg": "milligram 毫克", "g": "gram 克", "kg": "kilogram 千克 公斤",
    "lb": "lbs pound 磅", "oz": "ounce 盎司", "t": "ton tonne 吨", "ms": "millisecond 毫秒", "s": "sec second 秒",
    "min": "minute 分钟 分", "h": "hr hour 小时 时", "day": "天 日", "week": "周 星期", "month": "月 个月",
    "year": "yr 年",
    "l": "L liter litre 升", "ml": "mL milliliter millilitre 毫升", "gal": "gallon 加仑", "degree": "deg ° 度",
    "rad": "radian 弧度", "dollar": "usd 美元", "cent": "¢ 美分", "euro": "eur € 欧元", "pound sterling": "gbp £ 英镑",
    "yuan": "rmb cny ¥ 元", "unit": "单位", "mph": "miles/hour 英里/小时", "km/h": "kph km/hr 千米/小时 公里/小时",
    "m/s": "米/秒", "hz": "hertz 赫兹", "n": "newton 牛顿 牛", "j": "joule 焦耳 焦", "w": "watt 瓦特 瓦",
    "v": "volt 伏特 伏",    "k": "kelvin 开尔文", "mol": "mole 摩尔", "pa": "pascal 帕斯卡 帕",
}  # fmt: skip
_NAMES: Final = {alias: name for name, aliases in _ALIASES.items() for alias in (name, *aliases.split())}
_MULTIPLES: Final = {
    "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
    "百": 100, "千": 10**3, "万": 10**4, "百万": 10**6, "亿": 10**8,
}  # fmt: skip
_SET = re.compile(r"\s*\\(?:text|mathrm|mbox|textrm)\s*\{\s*([^{}0-9]*?)[\s.]*\}(?:\^\{?([23])\}?)?$")
_PLAIN = re.compile(r"(?<=[0-9}])\s+([A-Za-z°¢€£¥\u4e00-\u9fff/]+(?: [A-Za-z]+)?)(?:\^\{?([23])\}?)?$")
_DEGREE = re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)$|(?<=[0-9])\s*°$")
_PERCENT = re.compile(r"\s*\\?%$")
_BASE = re.compile(r"(?<=[0-9A-F])_\{?([0-9]+)\}?$")
_MONEY = re.compile(r"\A[\s$]*\\\$\s*")
_POWERED = re.compile(r"(square|sq\.?|平方|cubic|cu\.?|立方)\s*(.*)")


@dataclass(frozen=True, slots=True)
class Measured:
    """A value as it is written, and its unit: its name, whatever it says where it is not known, or empty.

    `is_measure` where it is a unit that is known, and set as one. A multiple ("million") is a factor.
    """

    value: str
    unit: str = ""
    is_measure: bool = False
    factor: int = 1


@lru_cache(maxsize=4096)
def measured(text: str) -> Measured:
    """Take an answer apart. Raises Unparseable for characters that hide what it says."""
    money = _MONEY.match(text)
    bare = normal(text[money.end() :] if money else text, keep_text=True)
    if money:
        return Measured(normal(bare), "dollar", is_measure=True)
    for pattern, unit, is_measure in ((_DEGREE, "degree", True), (_PERCENT, "%", False)):
        if found := pattern.search(bare):
            return Measured(normal(bare[: found.start()]), unit, is_measure)
    if found := _BASE.search(bare):
        return Measured(normal(bare[: found.start()]), f"base {found[1]}")
    if (found := _SET.search(bare)) and found.start():
        return _with_unit(bare[: found.start()], found[1], found[2], is_set=True)
    if (found := _PLAIN.search(bare)) and (found[1] in _MULTIPLES or _name(found[1].split(" ")[-1])):
        return _with_unit(bare[: found.start()], found[1], found[2], is_set=False)
    return Measured(normal(bare))


def _with_unit(value: str, words: str, power: str | None, is_set: bool) -> Measured:
    factor, rest = 1, words.strip()
    first, _, others = rest.partition(" ")
    if first in _MULTIPLES:
        factor, rest = _MULTIPLES[first], others.strip()
    powered = _POWERED.fullmatch(rest)
    if powered:
        power, rest = ("2" if powered[1][0] in "s平" else "3"), powered[2]
    name = _name(rest)
    unit = (name or rest.casefold()) + (f"^{power}" if power else "")
    return Measured(normal(value), unit, is_set and bool(name), factor)


def _name(word: str) -> str:
    """The unit that a word names, in the singular or the plural; empty where it names none."""
    return next(
        (_NAMES[each] for each in (word, word.casefold(), word.casefold().removesuffix("s")) if each in _NAMES), ""
    )
