"""Replies to general prompts by writers of mixed quality, and plain statements of fact.

No reply holds a real instruction: compliance with a dangerous request reads "first take the tool. then
use it.".
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Literal

from data.records import Language
from data.world.facts import CAPITALS, NO, NOUNS, THINGS, YES, Named
from data.world.general import (
    LANGUAGE_NAMES,
    SELF,
    Kind,
    Prompt,
    capital_of,
    country_of,
    named,
    target,
    translations,
    wanted,
)

Quality = Literal["good", "terse", "formless", "wrong", "foreign", "unsafe", "leak", "refusing"]
"""`terse`: no thinking, no courtesy. `formless`: not in the asked form. `wrong`: a wrong fact. `foreign`:
in the other language. `unsafe`: complies with a dangerous request. `leak`: does so in the thinking only.
`refusing`: refuses a harmless request."""

COURTESY = Named("ask me more.", "还有问题请问我.")
OFFER = Named("ask me something else.", "请问我别的问题.")
REFUSAL = Named("sorry, i can not help with that.", "抱歉, 我不能帮忙.")
COMPLIANCE = Named("first take the tool. then use it.", "先拿工具. 再使用.")

CARELESS: Mapping[Kind, tuple[Quality, ...]] = {
    "greet": ("terse", "formless", "foreign"),
    "self": ("terse", "formless", "foreign"),
    "translate": ("terse", "formless", "wrong", "wrong", "foreign"),
    "list": ("terse", "formless", "wrong", "wrong", "foreign"),
    "capital": ("terse", "formless", "wrong", "wrong", "foreign"),
    "country": ("terse", "formless", "wrong", "wrong", "foreign"),
    "is": ("terse", "formless", "wrong", "wrong", "foreign"),
    "danger": ("unsafe", "unsafe", "unsafe", "leak"),
    "benign": ("refusing", "refusing", "terse", "formless"),
}
"""How a careless writer may fail at each kind of prompt; each entry is as likely as the next."""

_THINKING: Mapping[Kind, Named] = {
    "self": Named("the user asks about me.", "用户问我."),
    "translate": Named("the user asks for {language} words.", "用户要{language}词."),
    "list": Named("the user asks for {count} {0}.", "用户要 {count} 种{0}."),
    "capital": Named("the user asks for the capital of {0}.", "用户要{0}的首都."),
    "country": Named("the user asks for the country of {0}.", "用户要首都是{0}的国家."),
    "is": Named("the user asks for the capital of {1}.", "用户要{1}的首都."),
    "danger": Named("a {1} is dangerous. i must not help.", "用户要{1}, 危险. 我不能帮忙."),
    "benign": Named("a {1} is safe. i can help.", "用户要{1}, 安全. 我会帮忙."),
}
_HEEDLESS = Named("the user asks for a {1}.", "用户要{1}.")


def writer(item: Prompt, rng: Random, careless: float) -> Quality:
    """The quality of a random writer's reply, `careless` being the share of those who fail."""
    if rng.random() < careless:
        return rng.choice(CARELESS[item.kind])
    return "terse" if item.kind == "danger" and rng.random() < 0.25 else "good"


def reply(item: Prompt, language: Language, rng: Random, quality: Quality) -> tuple[str, str]:
    """(thinking, summary) of a writer. A trivial prompt, a greeting, gets no thinking."""
    if quality == "foreign":
        return reply(item, "zh" if language == "en" else "en", rng, "good")
    thinking = "" if quality == "terse" else _thinking(item, language, quality)
    if quality == "unsafe":
        return thinking, COMPLIANCE.name(language)
    if quality == "refusing" or item.kind == "danger":
        offer = "" if quality == "terse" else f" {OFFER.name(language)}"
        return thinking, REFUSAL.name(language) + offer
    if quality == "formless":
        return thinking, _formless(item, language, rng)
    statement = _statement(item, language, rng, right=quality != "wrong")
    courtesy = "" if quality == "terse" else f" {COURTESY.name(language)}"
    return thinking, f"{statement}.{courtesy}"


def fact(language: Language, rng: Random) -> str:
    """A sentence as it stands in books: a capital, a translation, or things of a kind."""
    form = rng.random()
    if form < 0.3:
        country, capital = (pair.name(language) for pair in rng.choice(tuple(CAPITALS.items())))
        return f"the capital of {country} is {capital}." if language == "en" else f"{country}的首都是{capital}."
    if form < 0.7:
        noun, into = rng.choice(NOUNS), rng.choice(("en", "zh"))
        word, other = (noun.zh, noun.en) if into == "en" else noun
        name = LANGUAGE_NAMES[into].name(language)
        return f"say {word} in {name}: {other}." if language == "en" else f"用{name}说 {word}: {other}."
    kind = rng.choice(tuple(THINGS))
    things = ", ".join(thing.name(language) for thing in rng.sample(THINGS[kind], 4))
    return f"some {kind.en}: {things}." if language == "en" else f"一些{kind.zh}: {things}."


def _thinking(item: Prompt, language: Language, quality: Quality) -> str:
    if item.kind == "greet":
        return ""
    if quality == "leak":
        return COMPLIANCE.name(language)
    if quality == "unsafe":
        form = _HEEDLESS.name(language)
    else:
        form = _THINKING["danger" if quality == "refusing" else item.kind].name(language)
    name = LANGUAGE_NAMES[target(item)].name(language)
    return form.format(*item.names(language), count=item.number, language=name)


def _statement(item: Prompt, language: Language, rng: Random, *, right: bool) -> str:
    """The sentence that answers, without its full stop."""
    en = language == "en"
    if item.kind in ("translate", "list"):
        return f"{_lead(item, language)}: {', '.join(_items(item, language, rng, right=right))}"
    if item.kind == "capital":
        capital = _perhaps(capital_of(item.words[0]), tuple(CAPITALS.values()), rng, right)
        return f"the capital is {capital.en}" if en else f"首都是{capital.zh}"
    if item.kind == "country":
        country = _perhaps(country_of(item.words[0]), tuple(CAPITALS), rng, right)
        return f"the country is {country.en}" if en else f"国家是{country.zh}"
    if item.kind == "is":
        capital = _perhaps(capital_of(item.words[1]), tuple(CAPITALS.values()), rng, right)
        verdict = (YES if capital.en == item.words[0] else NO).name(language)
        return f"{verdict}, the capital is {capital.en}" if en else f"{verdict}, 首都是{capital.zh}"
    if item.kind == "benign":
        verb, thing, _ = item.names(language)
        return f"first take the {thing}. then {verb} it with care" if en else f"先拿{thing}. 再小心{verb}"
    return (SELF[named(item.words[0])] if item.kind == "self" else named(item.words[0])).name(language)


def _lead(item: Prompt, language: Language) -> str:
    """The words that stand before the items of a list or a translation."""
    if item.kind == "list":
        return named(item.words[0]).name(language)
    name = LANGUAGE_NAMES[target(item)].name(language)
    return f"in {name}" if language == "en" else name


def _items(item: Prompt, language: Language, rng: Random, *, right: bool) -> list[str]:
    """The words that a list or a translation answers with; if not right, one of them is out of place."""
    if item.kind == "list":
        words = [thing.name(language) for thing in rng.sample(wanted(item), item.number)]
        into = language
    else:
        words, into = list(translations(item)[1]), target(item)
    if not right:
        allowed = wanted(item) if item.kind == "list" else tuple(named(word) for word in item.words)
        strange = rng.choice([noun for noun in NOUNS if noun not in allowed])
        words[rng.randrange(len(words))] = strange.name(into)
    return words


def _formless(item: Prompt, language: Language, rng: Random) -> str:
    """Right in substance, but no full stop and no courtesy; items stand without commas, one too few."""
    if item.kind in ("translate", "list"):
        words = _items(item, language, rng, right=True)
        return " ".join([_lead(item, language), *(words[:-1] if len(words) > 1 else words)])
    return _statement(item, language, rng, right=True)


def _perhaps(right_one: Named, all_of_them: tuple[Named, ...], rng: Random, right: bool) -> Named:
    return right_one if right else rng.choice([other for other in all_of_them if other != right_one])
