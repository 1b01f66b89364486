from __future__ import annotations

import pytest
import torch

from model.decode import Decoder
from model.draw import draw, uniform
from model.sampler import logprobs, sample

PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3], [11], [20, 21, 22, 23], [5, 6, 7]]
SEEDS = [[10, 11, 12], [20, 21], [30, 31, 32, 33], [40], [10, 50]]
SETTINGS = {"max_tokens": 24, "temperature": 1.0, "top_p": 1.0, "stop_ids": {1, 2, 3}}


def chi_square(counts, probs):
    expected = probs * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def test_log_probabilities_equal_those_of_the_trainer(build):
    for temperature in (1.0, 0.6):
        model = build(q_lora_rank=16)
        for top_p in (1.0, 0.8):
            settings = {**SETTINGS, "temperature": temperature, "top_p": top_p}
            for prompt, group in zip(PROMPTS, sample(model, PROMPTS, SEEDS, **settings), strict=True):
                for one in group:
                    with torch.no_grad():
                        values = logprobs(model, torch.tensor([prompt + one.ids]), temperature=temperature)
                    own = torch.tensor(one.logprobs)
                    torch.testing.assert_close(own, values[0, len(prompt) - 1 :], atol=1e-4, rtol=1e-4)


def test_a_sample_does_not_depend_on_its_neighbours_or_their_order(build):
    model = build()
    for top_p in (1.0, 0.9):
        settings = {**SETTINGS, "top_p": top_p}
        together = [[one.ids for one in group] for group in sample(model, PROMPTS, SEEDS, **settings)]
        alone = [
            [sample(model, [prompt], [[seed]], **settings)[0][0].ids for seed in seeds]
            for prompt, seeds in zip(PROMPTS, SEEDS, strict=True)
        ]
        assert together == alone
        backwards = sample(model, PROMPTS[::-1], [seeds[::-1] for seeds in SEEDS[::-1]], **settings)
        assert [[one.ids for one in group[::-1]] for group in backwards[::-1]] == together
        for max_batch in (1, 2, 3, 5):
            few = sample(model, PROMPTS, SEEDS, **settings, max_batch=max_batch)
            assert [[one.ids for one in group] for group in few] == together
    assert together[0][0] == together[4][0]
    assert together[0][0] != together[0][1]


def test_a_sample_is_handed_over_as_it_ends_while_others_decode(build):
    events = []
    for max_batch in (2, 5, 512):
        events.clear()
        groups = sample(
            build(), PROMPTS, SEEDS, **SETTINGS, max_batch=max_batch,
            on_sample=lambda number, one: events.append((number, one)),
            on_progress=lambda done, total: events.append((done, total)),
        )  # fmt: skip
        total = sum(map(len, SEEDS))
        handed = [(place, event) for place, event in enumerate(events) if event[1] != total]
        flat = [one for group in groups for one in group]
        assert sorted(number for _, (number, _) in handed) == list(range(total))
        assert all(one == flat[number] for _, (number, one) in handed)
        first_seen = next(place for place, event in enumerate(events) if event == (total, total))
        assert any(place < first_seen - total for place, _ in handed)
        for place, event in enumerate(events):
            if event[1] == total:
                assert event[0] == sum(before < place for before, _ in handed)


def test_a_prompt_is_computed_once_for_all_of_its_samples(build, monkeypatch):
    lengths, prefill = [], Decoder.prefill
    monkeypatch.setattr(
        Decoder, "prefill", lambda self, tokens, of: lengths.extend(of.tolist()) or prefill(self, tokens, of)
    )
    sample(build(), PROMPTS, SEEDS, **SETTINGS)
    assert sorted(lengths) == sorted(map(len, PROMPTS))
    assert sum(map(len, SEEDS)) > len(PROMPTS)


def test_samples_end_at_a_stop_id_or_at_the_limit(build):
    groups = sample(build(), PROMPTS, SEEDS, **SETTINGS)
    finishes = {"stop": 0, "length": 0}
    for one in (one for group in groups for one in group):
        stops = [token in SETTINGS["stop_ids"] for token in one.ids]
        assert len(one.ids) == len(one.logprobs) <= 24
        assert not any(stops[:-1])
        assert (one.finish == "stop") == stops[-1]
        if one.finish == "length":
            assert len(one.ids) == 24
        finishes[one.finish] += 1
    assert min(finishes.values()) > 0


def test_a_shorter_limit_cuts_the_same_samples(build):
    model = build()
    long = sample(model, PROMPTS, SEEDS, **SETTINGS)
    limits = [1, 2, 3, 5, 24]
    short = sample(model, PROMPTS, SEEDS, **{**SETTINGS, "max_tokens": limits})
    for limit, longer, shorter in zip(limits, long, short, strict=True):
        assert [one.ids for one in shorter] == [one.ids[:limit] for one in longer]


def test_samples_stop_where_the_positions_end(build):
    model = build(max_position_embeddings=12)
    groups = sample(model, [[4] * 11, [4] * 8], [[1], [2]], **{**SETTINGS, "stop_ids": ()})
    assert [len(group[0].ids) for group in groups] == [1, 4]
    assert {group[0].finish for group in groups} == {"length"}


def test_greedy_takes_the_most_likely_token_each_time(build):
    model = build()
    groups = sample(model, PROMPTS, SEEDS, **{**SETTINGS, "temperature": 0.0, "stop_ids": ()})
    for prompt, group in zip(PROMPTS, groups, strict=True):
        ids = list(prompt)
        with torch.no_grad():
            for token, logprob in zip(group[0].ids, group[0].logprobs, strict=True):
                last = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
                assert token == int(last.argmax())
                assert logprob == pytest.approx(float(last.max()), abs=1e-4)
                ids.append(token)
        assert all(one.ids == group[0].ids for one in group)


@pytest.mark.parametrize(("temperature", "critical"), [(1.0, 112.3), (0.5, 112.3)])
def test_first_tokens_are_distributed_as_the_softmax(build, temperature, critical):
    model = build(initializer_range=0.05)
    count = 6000
    settings = {"max_tokens": 1, "temperature": temperature, "top_p": 1.0, "stop_ids": ()}
    (group,) = sample(model, [[5, 6, 7]], [list(range(count))], **settings)
    counts = torch.bincount(torch.tensor([one.ids[0] for one in group]), minlength=60).double()
    with torch.no_grad():
        probs = (model(torch.tensor([[5, 6, 7]]))[0, -1].double() / temperature).softmax(-1)
    assert (probs * count).min() > 5
    assert chi_square(counts, probs) < critical  # 59 degrees of freedom, p = 3e-5


def test_second_tokens_are_distributed_as_the_softmax_given_the_first(build):
    model = build(vocab_size=8, initializer_range=0.3)
    settings = {"max_tokens": 2, "temperature": 1.0, "top_p": 1.0, "stop_ids": ()}
    (group,) = sample(model, [[5]], [list(range(8000))], **settings)
    drawn = torch.tensor([one.ids for one in group])
    first = int(drawn[:, 0].mode().values)
    counts = torch.bincount(drawn[drawn[:, 0] == first, 1], minlength=8).double()
    with torch.no_grad():
        probs = model(torch.tensor([[5, first]]))[0, -1].double().softmax(-1)
    assert chi_square(counts, probs) < 32.0  # 7 degrees of freedom, p = 4e-5


def test_nucleus_keeps_the_fewest_most_likely_tokens():
    probs = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    chances = torch.arange(1000) / 1000
    for top_p, expected in [
        (0.4, {1: 1.0}),
        (0.6, {1: 4 / 7, 3: 3 / 7}),
        (0.85, {1: 4 / 9, 3: 3 / 9, 2: 2 / 9}),
        (1.0, {0: 0.1, 1: 0.4, 2: 0.2, 3: 0.3}),
    ]:
        ids, values = draw(probs.log().expand(1000, -1), chances, False, top_p)
        shares = {token: float((ids == token).float().mean()) for token in ids.unique().tolist()}
        assert shares == pytest.approx(expected, abs=2e-3)
        torch.testing.assert_close(values, probs[0, ids].log())


def test_a_wide_nucleus_is_found_beyond_the_candidates():
    torch.manual_seed(0)
    logits = torch.randn(2, 500) * 0.1
    logits[1] *= 100  # a narrow one beside it
    chances = torch.arange(4000) / 4000
    for row in range(2):
        ids, _ = draw(logits[row].expand(4000, -1), chances, False, 0.9)
        ordered = logits[row].softmax(-1).sort(descending=True)
        size = int((ordered.values.cumsum(0) < 0.9).sum()) + 1
        assert set(ids.tolist()) <= set(ordered.indices[:size].tolist())
        assert len(ids.unique()) > 0.95 * size
    both, _ = draw(logits, torch.tensor([0.37, 0.37]), False, 0.9)
    assert both.tolist() == [int(draw(logits[i : i + 1], torch.tensor([0.37]), False, 0.9)[0]) for i in range(2)]


def test_tokens_of_no_probability_are_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(3, -1)
    extremes = torch.tensor([0.0, 0.5, 1 - 2**-24])
    assert draw(logits, extremes, False, 1.0)[0].tolist() == [1, 3, 3]
    assert set(draw(logits, extremes, False, 0.99)[0].tolist()) == {1, 3}


def test_uniform_is_a_function_of_seed_and_place_and_is_uniform():
    seeds, places = torch.arange(200)[:, None], torch.arange(300)
    values = uniform(seeds, places)
    assert torch.equal(values[17, 250], uniform(torch.tensor(17), torch.tensor(250)))
    assert values.min() >= 0
    assert values.max() < 1
    counts = torch.bincount((values.flatten() * 100).long(), minlength=100).double()
    assert chi_square(counts, torch.full((100,), 0.01).double()) < 171  # 99 degrees of freedom, p = 1e-5
    for shifted in (values[1:] - values[:-1], values[:, 1:] - values[:, :-1]):
        # Differences of independent uniforms have mean 0 and variance 1/6.
        assert abs(float(shifted.mean())) < 0.01
        assert float(shifted.var()) == pytest.approx(1 / 6, rel=0.02)


def test_seeds_of_any_size_are_told_apart(build):
    settings = {**SETTINGS, "max_tokens": 8, "stop_ids": ()}
    seeds = [2**64 - 1, 2**63, 2**63 - 1, 0, 1]
    (group,) = sample(build(), [[5]], [seeds], **settings)
    assert len({tuple(one.ids) for one in group}) == 5


def test_sampling_leaves_the_model_as_it_was(build):
    model = build().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    sample(model, PROMPTS, SEEDS, **SETTINGS)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(layer.load.sum() == 0 for layer in model.model.moe_layers())
    model(torch.tensor([[1, 2, 3]])).sum().backward()


def test_progress_ends_with_all_done(build):
    seen = []
    sample(build(), PROMPTS, SEEDS, **SETTINGS, max_batch=4, on_progress=lambda *at: seen.append(at))
    assert seen[-1] == (12, 12)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_nothing_to_sample_is_no_trouble(build):
    assert sample(build(), [], [], **SETTINGS) == []
    assert sample(build(), [[5], [6]], [[], [1]], **SETTINGS)[0] == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prompts": [[5], []], "seeds": [[1], [1]]}, "prompt 1 is empty"),
        ({"prompts": [[5] * 128]}, "128 \\+ 1 tokens"),
        ({"seeds": []}, "lists of seeds"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": [1, 2]}, "max_tokens"),
        ({"max_batch": 0}, "max_batch"),
    ],
)
def test_questions_that_make_no_sense_are_refused(build, change, named):
    arguments = {"prompts": [[5]], "seeds": [[1]], **SETTINGS, **change}
    with pytest.raises(ValueError, match=named):
        sample(build(), arguments.pop("prompts"), arguments.pop("seeds"), **arguments)


def test_trainer_log_probabilities_equal_the_softmax_with_and_without_mask(build):
    model = build()
    tokens = torch.randint(0, 60, (3, 14), generator=torch.Generator().manual_seed(0))
    mask = torch.rand(3, 13, generator=torch.Generator().manual_seed(1)) < 0.5
    full = (model(tokens) / 0.7).log_softmax(-1)[:, :-1]
    expected = full.gather(-1, tokens[:, 1:, None])[..., 0]
    entropy = -(full.exp() * full).sum(-1)
    values, own = logprobs(model, tokens, temperature=0.7, chunk=5, return_entropy=True)
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(own, entropy, atol=1e-5, rtol=1e-4)
    masked, own = logprobs(model, tokens, temperature=0.7, mask_BT=mask, return_entropy=True)
    torch.testing.assert_close(masked, expected * mask, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(own, entropy * mask, atol=1e-5, rtol=1e-4)
    gradients = [
        torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        for loss in ((expected * mask).sum(), masked.sum())
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_log_probabilities_need_a_positive_temperature(build):
    with pytest.raises(ValueError, match="temperature"):
        logprobs(build(), torch.tensor([[1, 2]]), temperature=0.0)
