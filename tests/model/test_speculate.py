"""Guessing a token ahead changes the time a sample takes, and nothing else."""

from __future__ import annotations

import pytest
import torch

from model.attention import LatentCache
from model.decode import Decoder
from model.sampler import Drafts, sample

PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3], [11], [20, 21, 22, 23], [5, 6, 7]]
SEEDS = [[10, 11, 12], [20, 21], [30, 31, 32, 33], [40], [10, 50]]
SETTINGS = {"max_tokens": 24, "temperature": 1.0, "top_p": 1.0, "stop_ids": {1, 2, 3}}


def told(groups):
    return [[(one.ids, one.finish) for one in group] for group in groups]


@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": 16, "kv_lora_rank": 20, "n_group": 4, "topk_group": 2}])
@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {}, {"top_p": 0.8}, {"temperature": 0.6}])
def test_samples_are_token_for_token_those_without_drafts(build, changes, settings):
    model = build(num_nextn_predict_layers=1, **changes)
    settings = {**SETTINGS, **settings}
    plain = sample(model, PROMPTS, SEEDS, **settings)
    for max_batch in (512, 5):
        drafts = Drafts()
        drafted = sample(model, PROMPTS, SEEDS, **settings, drafts=drafts, max_batch=max_batch)
        assert told(drafted) == told(plain)
        assert drafts.accepted < drafts.made
        assert drafts.accepted > 0 or settings["temperature"] == 0  # two heads of random weights seldom agree
        for group, others in zip(drafted, plain, strict=True):
            for one, other in zip(group, others, strict=True):
                torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-4, rtol=0)


def test_limits_and_stops_hold_within_a_step_of_two_tokens(build):
    model = build(num_nextn_predict_layers=1)
    for limit in range(1, 8):
        settings = {**SETTINGS, "max_tokens": [limit, 24, limit, 3, 1], "stop_ids": {1, 2, 3, 30, 31, 32, 33, 34}}
        drafted = sample(model, PROMPTS, SEEDS, **settings, drafts=Drafts())
        assert told(drafted) == told(sample(model, PROMPTS, SEEDS, **settings))


def test_second_and_third_tokens_are_distributed_as_the_softmax(build):
    """Both kinds of token are among them: those after a right guess, and those after a wrong one."""
    model = build(vocab_size=8, initializer_range=0.3, num_nextn_predict_layers=1)
    settings = {"max_tokens": 3, "temperature": 1.0, "top_p": 1.0, "stop_ids": ()}
    drafts = Drafts()
    (group,) = sample(model, [[5]], [list(range(8000))], **settings, drafts=drafts)
    assert 0.1 < drafts.accepted / drafts.made < 0.9
    drawn = torch.tensor([one.ids for one in group])
    for length in (1, 2):
        before, times = drawn[:, :length].unique(dim=0, return_counts=True)
        common = before[times.argmax()]
        chosen = (drawn[:, :length] == common).all(1)
        counts = torch.bincount(drawn[chosen, length], minlength=8).double()
        with torch.no_grad():
            probs = model(torch.tensor([[5, *common.tolist()]]))[0, -1].double().softmax(-1)
        expected = probs * counts.sum()
        assert float(((counts - expected) ** 2 / expected).sum()) < 32.0  # 7 degrees of freedom, p = 4e-5


def test_a_model_that_knows_what_comes_has_most_guesses_accepted(build):
    """Text that counts up is predicted two ahead; then two of three tokens need no step of their own."""
    torch.manual_seed(0)
    model = build(num_nextn_predict_layers=1, initializer_range=0.05).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        tokens = (torch.randint(0, 60, (16, 1)) + torch.arange(12)) % 60
        hidden, further = model.hidden_with_mtp(tokens)
        loss = sum(
            torch.nn.functional.cross_entropy(model.logits(states).flatten(0, 1), tokens[:, first:].flatten())
            for states, first in ((hidden[:, :-1], 1), (further[:, :-1], 2))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drafts = Drafts()
    settings = {"max_tokens": 30, "temperature": 0.0, "top_p": 1.0, "stop_ids": ()}
    (group,) = sample(model, [[4, 5, 6]], [[1]], **settings, drafts=drafts)
    assert group[0].ids == [(7 + n) % 60 for n in range(30)]
    assert drafts.accepted / drafts.made > 0.9


def test_the_drafting_layer_gives_what_the_trainer_trains(build):
    model = build(num_nextn_predict_layers=1, q_lora_rank=16)
    tokens = torch.randint(0, 60, (2, 14), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([9, 5])
    with torch.no_grad():
        hidden, further = model.hidden_with_mtp(tokens)
        expected = model.logits(further)
        decoder = Decoder(model, drafts=True)
        latents, _, last = decoder.prefill_for_drafts(tokens[:, :9], lengths)
        rows = torch.arange(2)
        torch.testing.assert_close(last, hidden[rows, lengths - 1], atol=1e-4, rtol=1e-4)
        cache = LatentCache.empty(model.config, last, further=1)
        cache.extend(latents, lengths - 1)
        cache.reserve(14)
        places = lengths[:, None] - 1 + torch.arange(3)
        for picked in range(3):
            logits = decoder.draft(
                hidden[rows[:, None], places], tokens[rows[:, None], places + 1], torch.full((2,), picked), cache, 12
            )
            torch.testing.assert_close(logits, expected[rows, places[:, picked]], atol=1e-4, rtol=1e-4)


def test_a_model_without_the_layer_is_refused(build):
    with pytest.raises(ValueError, match="num_nextn_predict_layers is 0"):
        sample(build(), [[5]], [[1]], **SETTINGS, drafts=Drafts())
