"""The look of the report: names and colours of the models, small pieces of markup, and the style sheet."""

from __future__ import annotations

from html import escape
from typing import NamedTuple


class Station(NamedTuple):
    """How a model is called and coloured, and how it is made."""

    label: str
    colour: str
    made: str


INK, MUTED, HAIR, PAPER = "#1f2328", "#656d76", "#e4e6ea", "#fcfcfb"
TYPEFACE = "system-ui, -apple-system, 'Segoe UI', 'Noto Sans', sans-serif"
STATIONS: dict[str, Station] = {
    "base": Station("base", "#8c939c", "pretrained; answers in the plain template"),
    "base_untouched": Station("base untouched", "#c3c8ce", "the base before its mid-training"),
    "direct": Station("direct RL", "#e3a08f", "base untouched + RL with rule rewards: Zero without mid-training"),
    "zero": Station("Zero", "#c8553d", "base + RL with rule rewards, no fine-tuning"),
    "dev1": Station("Dev1", "#dd9a2f", "base fine-tuned on Zero's readable answers (cold start)"),
    "dev2": Station("Dev2", "#4a9468", "Dev1 + reasoning RL with the language reward"),
    "dev2_without_language_reward": Station("Dev2 without language reward", "#a3ad3c", "the ablation"),
    "dev3": Station("Dev3", "#4b9fc9", "base fine-tuned on Dev2's filtered answers and general replies"),
    "r1": Station("R1", "#2b5c9e", "Dev3 + RL for all scenarios, with reward models"),
    "student_base": Station("student base", "#b3a9b8", "a smaller pretrained model"),
    "student_rl": Station("student RL", "#a56aa8", "student base + RL alone"),
    "student_distilled": Station("student distilled", "#6f3d86", "student base fine-tuned on Dev3's set"),
}
MAIN = ("base", "zero", "dev1", "dev2", "dev3", "r1")
STUDENTS = ("student_base", "student_rl", "student_distilled")


def tag(model: str) -> str:
    """Return a model's name with its colour beside it."""
    station = STATIONS[model]
    return f'<span class="model"><i style="background:{station.colour}"></i>{escape(station.label)}</span>'


GOOD, BAD = frozenset({"shows", "correct", "safe"}), frozenset({"does not show", "wrong", "unsafe"})


def badge(verdict: str) -> str:
    """Return a verdict that can be told apart without its colour."""
    sign, kind = ("✓", "good") if verdict in GOOD else ("✗", "bad") if verdict in BAD else ("?", "open")
    return f'<span class="badge {kind}">{sign} {escape(verdict)}</span>'


CSS = """
:root { --ink: #1f2328; --muted: #656d76; --hair: #e4e6ea; --paper: #fcfcfb; --wash: #f4f5f4; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1100px; padding: 48px 28px 96px; background: var(--paper);
  color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Inter, "Noto Sans", "PingFang SC",
  "Microsoft YaHei",
  "Noto Sans SC", "WenQuanYi Micro Hei", sans-serif; }
h1 { font-size: 32px; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 12px; }
h2 { font-size: 21px; letter-spacing: -0.01em; margin: 0 0 14px; }
h3 { font-size: 15px; margin: 26px 0 10px; }
section { margin-top: 56px; scroll-margin-top: 16px; }
p { margin: 0 0 10px; }
a { color: inherit; }
.lede { font-size: 18px; line-height: 1.45; }
.note, figcaption { color: var(--muted); font-size: 13.5px; max-width: 84ch; }
.note b { color: var(--ink); font-weight: 600; }
.soft { color: var(--muted); font-weight: 400; }
nav { display: flex; flex-wrap: wrap; gap: 6px 18px; margin-top: 22px; padding-top: 14px;
  border-top: 1px solid var(--hair); font-size: 13.5px; }
nav a { color: var(--muted); text-decoration: none; }
nav a:hover { color: var(--ink); text-decoration: underline; }
.legend { display: grid; grid-template-columns: repeat(2, 1fr); gap: 4px 32px; margin: 20px 0 0;
  font-size: 13.5px; }
.legend div { display: flex; gap: 10px; }
.legend dt { flex: 0 0 auto; font-weight: 600; }
.legend dd { margin: 0; color: var(--muted); }
.model { white-space: nowrap; }
.model i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; }
figure { margin: 0 0 18px; }
figure svg { display: block; width: 100%; height: auto; margin-bottom: 8px; }
.scroll { overflow-x: auto; margin-bottom: 12px; }
table { width: 100%; border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: baseline; padding: 7px 14px 7px 0;
  border-bottom: 1px solid var(--hair); }
thead th { font-size: 12.5px; color: var(--muted); font-weight: 600; border-bottom: 1px solid #c9cdd3; }
tbody th { font-weight: 400; }
td b { font-weight: 700; }
.findings td { white-space: nowrap; }
.findings td:nth-child(2) { white-space: normal; font-size: 13px; min-width: 150px; }
.findings tbody th { min-width: 210px; }
.stages th:not(:first-child), .stages td { text-align: right; }
.stages td small { display: block; color: var(--muted); font-size: 11.5px; }
.stages tbody th b { display: inline-block; padding-top: 12px; font-weight: 600; font-size: 12.5px;
  color: var(--muted); }
.sources th, .sources td { padding-top: 4px; padding-bottom: 4px; }
code { font: 12.5px ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; }
.whisker { width: 90px; height: 13px; vertical-align: middle; }
.whisker path { stroke: #b9bec5; stroke-width: 1; }
.whisker .reach { stroke: var(--ink); stroke-width: 2; }
.whisker circle { fill: var(--ink); }
.badge { display: inline-block; padding: 1px 9px; border-radius: 10px; font-size: 12.5px;
  white-space: nowrap;
  background: #eceef0; color: #4d545c; }
.badge.good { background: #dff0e4; color: #1a5c35; }
.badge.bad { background: #f9e1dd; color: #8c2a1c; }
details { margin: 6px 0; }
summary { cursor: pointer; font-size: 14px; }
.cards { display: grid; grid-template-columns: repeat(3, 1fr); gap: 12px; margin: 10px 0; }
.cards.two { grid-template-columns: repeat(2, 1fr); }
.card { display: flex; flex-direction: column; padding: 12px 14px; background: #fff;
  border: 1px solid var(--hair);
  border-radius: 8px; font-size: 13.5px; line-height: 1.5; overflow-wrap: anywhere; }
.card header { font-weight: 600; margin-bottom: 6px; }
.card .thinking { color: var(--muted); padding-left: 10px; border-left: 2px solid var(--hair); }
.card .raw { font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono",
  "WenQuanYi Micro Hei", monospace; }
.card footer { margin-top: auto; padding-top: 4px; display: flex; flex-wrap: wrap; gap: 4px 10px;
  font-size: 12.5px; }
.prompt { padding: 10px 14px; background: var(--wash); border-radius: 8px; font-weight: 600; }
.prompt .kind { color: var(--muted); font-weight: 400; margin-right: 6px; }
@media (max-width: 760px) { .cards, .cards.two, .legend { grid-template-columns: 1fr; } }
@media print { details > * { display: block; } nav { display: none; } }
"""
