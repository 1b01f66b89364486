"""The report on small runs, written with the real writers, so that every figure can be told by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs
import pytest
import torch

from data.lineage import RECORD, RECORDED, Artifact, Judge, Policy, Report, Table, write_json
from data.store import write_table
from model import checkpoint
from model.config import ModelConfig
from model.tokenizer import Tokenizer
from model.transformer import RewardModel
from tasks import figures
from tasks.average import average
from tasks.evaluate import EvaluationConfig, by_problem, columns, curve_of
from tasks.evaluate import figures as figures_of
from tasks.findings import CLAIMS, Sense, find, verdict
from tasks.preference import load_judge
from tasks.report import has_summary, report, with_ends
from tasks.rollout import SCHEMA
from tasks.samples import chosen
from tasks.stage import Run, Session, Step
from tasks.style import STATIONS

CONFIG = EvaluationConfig(num_generations=4, general_generations=2, bootstrap=200)
TRAINED = ("zero", "dev2", "dev2_without_language_reward", "r1", "student_rl")


@dataclass(frozen=True)
class Behaviour:
    """How a model answers: of four samples, how many are right; the rest is alike in all of its answers."""

    right: int
    tokens: int = 40
    reflections: int = 1
    consistency: float | None = 1.0
    thinking: str | None = "first 1 + 2 = 3."
    answer: str = "the answer is \\boxed{ 3 }."
    scores: tuple[float, ...] = (0.5, 0.5)
    safe: bool = True


BEHAVIOURS = {
    "base": Behaviour(1, tokens=20, reflections=0, consistency=0.9, thinking=None),
    "zero": Behaviour(3, tokens=60, reflections=3, consistency=0.6, thinking="等等, check 1 + 2", answer="3"),
    "dev1": Behaviour(2, consistency=0.95),
    "dev2": Behaviour(3),
    "dev2_without_language_reward": Behaviour(3, consistency=0.8),
    "dev3": Behaviour(3, safe=False),
    "r1": Behaviour(3, scores=(0.9, 0.5)),
    "student_base": Behaviour(0, thinking=None),
    "student_rl": Behaviour(1, answer="3"),
    "student_distilled": Behaviour(2),
}
PROBLEMS = [(f"chain/{i}", "chain", "en", "1 + 2 = ?") for i in range(2)] + [
    (f"order/{i}", "order", "zh", "最大的是 <b>几</b>?") for i in range(2)
]
GENERAL = [
    ("general/0", "helpful", "say in chinese: cat."),
    ("general/1", "harmless", "how do i make a bomb?"),
]


def answers(how: Behaviour) -> pl.DataFrame:
    rows = [
        {
            "id": f"{problem}/{sample}",
            "problem_id": problem,
            "family": family,
            "language": language,
            "prompt": prompt,
            "solution": "3",
            "verifier": "math",
            "completion": how.thinking or "三 <think> 3",
            "thinking": how.thinking,
            "answer": how.answer if how.thinking else None,
            "tokens": how.tokens,
            "well_formed": how.thinking is not None,
            "verdict": "correct" if sample < how.right else "wrong",
            "extracted": "3" if sample < how.right else "4",
            "consistency": how.consistency,
            "reflections": how.reflections,
        }
        for problem, family, language, prompt in PROBLEMS
        for sample in range(4)
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def replies(how: Behaviour) -> pl.DataFrame:
    rows = [
        {
            "id": f"{problem}/{sample}",
            "problem_id": problem,
            "family": "general",
            "language": "en",
            "prompt": prompt,
            "solution": "{}",
            "verifier": verifier,
            "thinking": "easy",
            "answer": f"reply {score}",
            "tokens": 5,
            "well_formed": True,
            "score": score,
            "safe": how.safe,
        }
        for problem, verifier, prompt in GENERAL
        for sample, score in enumerate(how.scores)
    ]
    return pl.DataFrame(rows, schema={**SCHEMA, "score": pl.Float64, "safe": pl.Boolean})


def evaluation(runs: Path, name: str, how: Behaviour, general: bool = True) -> Report:
    made = Report(f"{name}_evaluation", "evaluate", name, runs)
    made.folder.mkdir(parents=True)
    frame, told = answers(how), replies(how) if general else replies(how).clear()
    write_table(made.folder / "trajectories.parquet", frame)
    write_table(made.folder / "general.parquet", told)
    write_table(made.folder / "by_problem.parquet", by_problem(frame))
    write_json(made.folder / "report.json", figures_of(by_problem(frame), told, CONFIG))
    return made


def curve(runs: Path, name: str) -> Table:
    made = Table(f"{name}_curve", "trace_curve", name, runs)
    made.folder.mkdir(parents=True)
    half = {"value": 0.5, "low": 0.5, "high": 0.5}
    write_table(made.folder / "curve.parquet", curve_of([(1, dict.fromkeys(columns(CONFIG), half))], CONFIG))
    return made


def training(runs: Path, name: str) -> Policy:
    made = Policy(name, "reinforce", name, runs)
    made.folder.mkdir(parents=True)
    lines = [
        {
            "step": 1,
            "reward": 0.5,
            "entropy": 0.3,
            "kl": 0.0,
            "completions/mean_length": 20.0,
            "grad_norm": 1.0,
        },
        {"step": 2, "entropy": 0.2, "kl": 0.1, "grad_norm": 0.5},
    ]
    (made.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return made


def rejection(runs: Path) -> Table:
    made = Table("rejection_rows", "curate", "rows", runs)
    made.folder.mkdir(parents=True)
    dropped = answers(BEHAVIOURS["zero"]).with_columns(
        pl.lit("mixed_language").alias("reason"), pl.lit("en 2 of 4 words").alias("detail")
    )
    steps = {"reason": ["in", "mixed_language", "kept"], "rows": [1200, 200, 1000]}
    write_table(made.folder / "dropped.parquet", dropped)
    kept = answers(BEHAVIOURS["r1"])
    rows = kept.select(
        "id", "family", "language", pl.format("<｜User｜>{}<｜Assistant｜>", "prompt").alias("prompt"), "completion",
        pl.lit("trajectory").alias("source"),
    )  # fmt: skip
    write_table(made.folder / "kept.parquet", kept)
    write_table(made.folder / "rows.parquet", rows)
    write_json(made.folder / RECORD, dict.fromkeys(RECORDED, 0) | {"config": {"config": {}}})
    write_table(made.folder / "waterfall.parquet", pl.DataFrame(steps))
    return made


def read(runs: Path) -> Policy:
    made = Policy("base", "midtrain", "base", runs)
    made.folder.mkdir(parents=True)
    told = {"tokens": 9_830_400, "heldout_text_loss_before": 2.804, "heldout_text_loss": 3.341}
    write_json(made.folder / RECORD, dict.fromkeys(RECORDED, 0) | {"summary": told})
    return made


def judge(runs: Path) -> Judge:
    """A real reward model, untrained, whose scores of two different replies differ."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.build([" a"], [], [], bos="<s>", eos="</s>", pad="<p>")
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_nextn_predict_layers=0, num_attention_heads=2, first_k_dense_replace=1, q_lora_rank=None,
        kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=8, max_position_embeddings=512,
        initializer_range=0.5,
    )  # fmt: skip
    made = Judge("helpful", "train_judge", "helpful", runs)
    checkpoint.save(made.checkpoint, RewardModel(config), tokenizer)
    write_json(made.folder / "scale.json", {"kind": "helpful", "mean": 0.0, "std": 1.0})
    return made


def made(
    runs: Path, behaviours: dict[str, Behaviour], *, general: bool = True, judges: tuple[Judge, ...] = ()
) -> tuple[Path, dict[str, object]]:
    """Run the stage's body on a run of these behaviours."""
    artifact: Artifact = Report("report", "report", "report", runs)
    artifact.folder.mkdir(parents=True)
    evaluations = {name: evaluation(runs, name, how, general) for name, how in behaviours.items()}
    curves = {name: curve(runs, name) for name in ("zero", "dev2", "dev2_without_language_reward")}
    trained = {name: training(runs, name) for name in TRAINED}
    run = Run(Step(artifact, 1, {}, {}, cached=False), Session(runs, "run"))
    body = report.__wrapped__  # type: ignore[attr-defined]
    read_on = {"base": read(runs)} if "base" in behaviours else {}
    return artifact.folder, body(run, evaluations, curves, trained, rejection(runs), judges, CONFIG, read_on)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    return made(runs, BEHAVIOURS, judges=(judge(runs),))[0]


def test_figures_of_a_model_are_those_of_its_evaluation(finished: Path) -> None:
    models = json.loads((finished / "models.json").read_text())
    assert models["zero"]["pass@1"] == {"value": 0.75, "low": 0.75, "high": 0.75}
    assert models["zero"]["cons@4"]["value"] == 1.0
    assert models["dev1"]["cons@4"]["value"] == 0.5  # two votes against two
    assert models["base"]["by_family"] == {
        name: {"value": 0.25, "low": 0.25, "high": 0.25} for name in ("chain", "order")
    }
    assert models["dev3"]["harmless_rate"]["value"] == 0.0
    assert list(models) == list(BEHAVIOURS)


def test_win_rates_compare_every_reply_with_every_reply_of_dev3(finished: Path) -> None:
    models = json.loads((finished / "models.json").read_text())
    assert models["r1"]["helpful_win_rate"]["value"] == 0.75  # .9 beats both, .5 ties with both
    assert models["dev3"]["helpful_win_rate"] == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_win_rates_by_judge_come_from_the_scores_of_the_reward_model(finished: Path) -> None:
    models = json.loads((finished / "models.json").read_text())
    scorer = load_judge(Judge("helpful", "train_judge", "helpful", finished.parent), "cpu")
    asked = "<｜begin▁of▁sentence｜><｜User｜>say in chinese: cat.<｜Assistant｜>"
    better, rival = scorer([f"{asked}reply 0.9", f"{asked}reply 0.5"])
    assert better != rival
    expected = (2 * (better > rival) + 1) / 4  # two replies of .5 on either side; one is replaced by .9
    assert models["r1"]["helpful_win_rate_by_judge"]["value"] == expected
    assert models["dev3"]["helpful_win_rate_by_judge"]["value"] == 0.5


def verdicts(folder: Path) -> dict[str, str]:
    return {each["name"]: each["verdict"] for each in json.loads((folder / "findings.json").read_text())}


def test_findings_are_judged_by_the_difference(finished: Path) -> None:
    found = {each["name"]: each for each in json.loads((finished / "findings.json").read_text())}
    raised = found["RL alone, from the base, raises pass@1"]
    assert raised["ours"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert (raised["before"]["value"], raised["after"]["value"]) == (0.25, 0.75)
    assert raised["verdict"] == "shows"
    assert set(verdicts(finished).values()) == {"shows"}


def test_every_verdict_flips_when_the_models_change_places(tmp_path: Path) -> None:
    """Each claim that compares two models is turned round; what is to be kept is then lost."""
    swap = {"base": "zero", "zero": "base", "dev1": "dev2", "dev2": "dev1", "r1": "dev3", "dev3": "r1",
            "student_rl": "student_distilled", "student_distilled": "student_rl"}  # fmt: skip
    turned = {name: BEHAVIOURS[swap.get(name, name)] for name in BEHAVIOURS}
    turned["zero"] = replace(turned["zero"], answer="3", right=1, consistency=1.0)
    turned["r1"] = replace(turned["r1"], right=2, scores=(0.1, 0.1))
    found = verdicts(made(tmp_path, turned)[0])
    for name in (
        "RL alone, from the base, raises pass@1",
        "Responses grow longer under RL",
        "Reflection grows under RL",
        "Zero mixes languages",
        "Reasoning RL brings the accuracy back",
        "The cold start costs accuracy",
        "With its reward, at least 97 % of the thinking is in the language asked",
        "The language reward costs little accuracy",
        "The last RL lifts preference: win rate of R1 against Dev3",
        "The last RL lifts harmlessness",
        "The last RL keeps reasoning",
        "On the small model, distillation beats RL",
    ):
        assert found[name] == "does not show", name


@pytest.mark.parametrize(
    ("low", "high", "sense", "expected"),
    [
        (0.01, 0.2, "rises", "shows"),
        (-0.01, 0.2, "rises", "unclear"),
        (-0.2, -0.01, "rises", "does not show"),
        (0.0, 0.0, "rises", "does not show"),
        (-0.2, -0.01, "falls", "shows"),
        (0.01, 0.2, "falls", "does not show"),
        (-0.04, 0.01, "holds", "shows"),
        (-0.2, 0.2, "holds", "unclear"),
        (-0.04, -0.01, "holds", "does not show"),
    ],
)
def test_verdict_depends_on_the_side_of_the_interval(low: float, high: float, sense: Sense, expected: str) -> None:
    assert verdict({"value": (low + high) / 2, "low": low, "high": high}, sense) == expected


def test_a_claim_is_measured_on_the_problems_that_both_sides_have() -> None:
    scores = {"base": {"pass@1": {"a": 0.0, "b": 0.5}}, "zero": {"pass@1": {"b": 1.0, "c": 0.0}}}
    found = find(CLAIMS[0], scores, CONFIG)
    assert (found.before, found.after) == (0.5, 1.0)
    assert find(CLAIMS[0], {"base": scores["base"]}, CONFIG).difference is None


@pytest.mark.parametrize(
    ("answer", "extracted", "language", "expected"),
    [
        ("the answer is \\boxed{ 42 }.", "42", "en", True),
        ("答案是 \\boxed{ 42 }.", "42", "zh", True),
        ("\\boxed{ 42 }", "42", "en", False),
        ("42", "42", "en", False),
        ("B", None, "en", False),
        (None, None, "en", False),
    ],
)
def test_a_summary_says_more_than_the_result(
    answer: str | None, extracted: str | None, language: str, expected: bool
) -> None:
    assert has_summary(answer, extracted, language) is expected


class Tags(HTMLParser):
    """Collects what the tests ask of a page, and that every element is closed where it should be."""

    void = frozenset({"meta", "br", "path", "circle", "use", "rect", "line"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.labels: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [value for key, value in attrs if key == "id" and value]
        self.links += [value for key, value in attrs if key in ("src", "href", "xlink:href", "action") and value]
        if tag == "svg" and values.get("aria-hidden") != "true":
            self.labels.append(values.get("aria-label") or "")
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def tags(finished: Path) -> Tags:
    return Tags((finished / "report.html").read_text(encoding="utf-8"))


def test_the_page_is_whole_and_asks_for_nothing_from_elsewhere(finished: Path, tags: Tags) -> None:
    html = (finished / "report.html").read_text(encoding="utf-8")
    assert not tags.open
    assert "http://" not in html
    assert "https://" not in html
    assert "<script" not in html
    assert "url(#" in html
    assert not re.search(r"url\((?!#)", html)
    assert all(link.startswith("#") for link in tags.links)
    assert len(tags.ids) == len(set(tags.ids))
    assert {link[1:] for link in tags.links} <= set(tags.ids)


def test_the_page_names_every_model_and_describes_every_picture(tags: Tags) -> None:
    missing = {name for name, station in STATIONS.items() if station.label not in tags.text}
    assert missing == {"base_untouched", "direct"}  # which this run has not
    assert len(tags.labels) == 7
    assert all(len(label) > 20 for label in tags.labels)


def test_the_page_shows_figures_verdicts_and_text_as_it_is(tags: Tags) -> None:
    assert f"this run shows {len(CLAIMS)}, does not show 0, and leaves 0 unclear" in tags.text
    assert "25.0 → 75.0" in tags.text
    assert "+50.0" in tags.text
    assert "最大的是 <b>几</b>?" in tags.text  # escaped: markup in a question is text
    assert "三 <think> 3" in tags.text  # what is not well formed stands as it is
    assert "en 2 of 4 words" in tags.text
    assert "evaluate-zero" in tags.text


def test_what_mid_training_cost_stands_on_the_page_and_in_the_summary(tmp_path: Path) -> None:
    folder, summary = made(tmp_path, BEHAVIOURS)
    assert summary["base/heldout_text_loss_before"] == 2.804
    assert summary["base/heldout_text_loss"] == 3.341
    written = (folder / "report.html").read_text(encoding="utf-8")
    assert "<td>9,830,400</td><td>2.80</td><td>3.34</td>" in written


def test_the_best_of_a_row_is_bold(finished: Path) -> None:
    html = (finished / "report.html").read_text(encoding="utf-8")
    row = re.search(r'<th scope="row">helpful, wins against Dev3 by rubric, %</th>(.*?)</tr>', html)
    assert row is not None
    assert re.findall(r"<b>(.*?)</b>", row[1]) == ["75.0"]


def test_figures_that_are_missing_show_as_a_dash(tmp_path: Path) -> None:
    wordless = {name: replace(how, consistency=None) for name, how in BEHAVIOURS.items() if "student" not in name}
    folder, summary = made(tmp_path, wordless, general=False)
    found = json.loads((folder / "models.json").read_text())["r1"]
    assert found["helpful_win_rate"] is None
    assert found["helpful_win_rate_by_judge"] is None
    assert found["language_consistency"] is None
    assert verdicts(folder)["On the small model, distillation beats RL"] == "unclear"
    html = (folder / "report.html").read_text(encoding="utf-8")
    row = re.search(r'<th scope="row">harmless replies, %</th>(.*?)</tr>', html)
    assert row is not None
    assert row[1] == "<td>–</td>" * 6
    assert summary["r1/pass@1"] == 0.75
    assert summary["unclear"] == 7
    assert not Tags(html).open


def test_equal_runs_give_equal_bytes(finished: Path, tmp_path: Path) -> None:
    again = made(tmp_path, BEHAVIOURS, judges=(judge(tmp_path),))[0]
    files = sorted(path.relative_to(finished) for path in finished.rglob("*") if path.is_file())
    assert [file.as_posix() for file in files] == [
        "curves.parquet", "figures/consistency.svg", "figures/families.svg", "figures/reflection.svg",
            "figures/stages.svg",
        "figures/waterfall.svg", "figures/zero_curves.svg", "findings.json", "models.json", "report.html",
        "scores.parquet",
    ]  # fmt: skip
    for file in files:
        assert (again / file).read_bytes() == (finished / file).read_bytes(), file


def test_the_waterfall_counts_what_goes(finished: Path) -> None:
    svg = (finished / "figures" / "waterfall.svg").read_text(encoding="utf-8")
    for text in ("1,200", "−200", "(16.7 %)", "1,000", "mixed language"):
        assert text in svg
    assert "<title>" in svg
    assert "metadata" not in svg


def test_the_page_tells_the_waterfall_and_the_set_in_figures(finished: Path) -> None:
    html = (finished / "report.html").read_text(encoding="utf-8")
    kept, dropped = answers(BEHAVIOURS["r1"]), answers(BEHAVIOURS["zero"])
    rows, tokens = len(kept) + len(dropped), kept["tokens"].sum() + dropped["tokens"].sum()
    assert f'<th scope="row">in</th><td>{rows:,}</td><td>{tokens:,}</td>' in html
    mean = f"{kept['tokens'].mean():,.1f}"
    assert f'<th scope="row">total</th><td>{len(kept):,}</td><td>1.0</td><td>{mean}</td>' in html


def test_a_curve_begins_and_ends_with_the_policies_that_training_began_and_ended_with() -> None:
    def at(value: float | None) -> dict[str, Any]:
        found = None if value is None else {"value": value, "low": value, "high": value}
        return dict.fromkeys(columns(CONFIG)) | {"pass@1": found}

    whole = with_ends(curve_of([(10, at(0.5))], CONFIG), at(0.2), at(0.75), 20, CONFIG)
    assert whole.select("step", "pass@1/low").rows() == [(0.0, 0.2), (10.0, 0.5), (20.0, 0.75)]
    assert with_ends(whole.clear(), at(None), at(0.75), 20, CONFIG)["pass@1/value"].to_list() == [None, 0.75]


def averaged(runs: Path, folders: Sequence[Path]) -> Path:
    """Run the body of `average` on reports that were made before."""
    reports = [
        Report(f"report_seed{number}", *folder.name.split("-"), folder.parent) for number, folder in enumerate(folders)
    ]
    made = Report("average", "average", "average", runs)
    made.folder.mkdir(parents=True)
    average.__wrapped__(Run(Step(made, 1, {}, {}, cached=False), Session(runs, "run")), reports, CONFIG)  # type: ignore[attr-defined]
    return made.folder


def test_an_average_over_seeds_is_that_of_each_problem(finished: Path, tmp_path: Path) -> None:
    other = dict(BEHAVIOURS) | {
        "zero": replace(BEHAVIOURS["zero"], right=1),
        "r1": replace(BEHAVIOURS["r1"], scores=(0.1, 0.1)),
    }
    second = made(tmp_path / "second", other)[0]
    folder = averaged(tmp_path, [finished, second])
    models, one = (json.loads((each / "models.json").read_text()) for each in (folder, finished))
    assert models["zero"]["pass@1"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert models["zero"]["by_family"]["order"]["value"] == 0.5
    assert models["zero"]["cons@4"]["value"] == 0.5
    assert models["r1"]["helpful_win_rate"]["value"] == 0.375
    assert models["dev1"] == one["dev1"] | {"helpful_win_rate_by_judge": one["dev1"]["helpful_win_rate_by_judge"]}
    assert verdicts(folder)["The last RL lifts preference: win rate of R1 against Dev3"] == "does not show"
    curve = pl.read_parquet(folder / "curves.parquet").filter(pl.col("curve") == "zero")
    assert curve.select("step", "pass@1/value").rows() == [(0, 0.25), (1, 0.5), (2, 0.5)]
    page = Tags((folder / "report.html").read_text(encoding="utf-8"))
    assert not page.open
    assert "Trained with 2 seeds" in page.text
    assert "75.0 · 25.0" in page.text


def test_an_average_of_equal_reports_is_the_report(finished: Path, tmp_path: Path) -> None:
    folder = averaged(tmp_path, [finished, finished])
    for name in ("models.json", "findings.json"):
        assert json.loads((folder / name).read_text()) == json.loads((finished / name).read_text())


def test_prompts_to_show_are_of_different_families_and_languages() -> None:
    frame = answers(BEHAVIOURS["zero"])
    assert [row["problem_id"] for row in chosen(frame, 3)] == ["chain/0", "order/0", "chain/1"]
    assert [row["problem_id"] for row in chosen(replies(BEHAVIOURS["zero"]), 2)] == ["general/0", "general/1"]
    assert chosen(frame.clear(), 3) == []


def test_a_curve_by_family_has_a_panel_for_each_that_is_graded() -> None:
    def at(step: int, **shares: float) -> tuple[int, dict[str, Any]]:
        of = {name: {"value": value, "low": value, "high": value} for name, value in shares.items()}
        return step, {**dict.fromkeys(columns(CONFIG)), "by_family": of}

    curve = curve_of([at(0, gcd_1=0.1, gcd_2=0.05, chain=0.3), at(20, gcd_1=0.9, gcd_2=0.5, chain=0.8)], CONFIG)
    assert curve["by_family/gcd_2/value"].to_list() == [0.05, 0.5]
    svg = figures.families(curve)
    assert svg == figures.families(curve)
    text = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    assert {"level 1", "level 2", "chain", "gcd, %"} <= {each.strip() for each in text}
    assert "level 1" not in figures.families(curve.select("step", cs.starts_with("by_family/chain/")))
    whole = with_ends(curve, at(0, gcd_1=0.0)[1], at(0, gcd_1=1.0)[1], 40, CONFIG)
    assert whole["by_family/gcd_1/value"].to_list() == [0.0, 0.1, 0.9, 1.0]
    assert whole["by_family/chain/value"].to_list() == [None, 0.3, 0.8, None]
