"""All sources of prompts by name: the miniature's families and their shares, the graded ones, general prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.world.chain import Chain
from data.world.choice import Choice
from data.world.code import Code
from data.world.family import Family, Source
from data.world.general import Harmless, Helpful
from data.world.graded import GRADED
from data.world.logic import Logic
from data.world.order import Order

FAMILIES: Mapping[str, Family[Any]] = {family.name: family for family in (Chain(), Order(), Choice(), Logic(), Code())}
SHARES: Mapping[str, float] = {"chain": 0.30, "order": 0.20, "choice": 0.20, "logic": 0.15, "code": 0.15}
REASONING: Mapping[str, Family[Any]] = {**FAMILIES, **GRADED}
SOURCES: Mapping[str, Source[Any]] = {**REASONING, "helpful": Helpful(), "harmless": Harmless()}
