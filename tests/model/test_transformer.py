from __future__ import annotations

import pytest
import torch

from model.attention import LatentCache, Rope, causal_attention
from model.decode import Decoder
from model.transformer import RewardModel, Transformer

SHAPES = {
    "folded": {},
    "factors": {"kv_lora_rank": 20, "qk_nope_head_dim": 8},
    "query latent": {"q_lora_rank": 20},
    "query latent and factors": {"q_lora_rank": 20, "kv_lora_rank": 20},
    "groups, wide experts": {"n_group": 4, "topk_group": 2, "moe_intermediate_size": 48},
    "dense": {"first_k_dense_replace": 3},
    "no shared expert": {"n_shared_experts": 0},
    "yarn": {
        "rope_scaling": {
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "mscale": 1.0,
            "mscale_all_dim": 0.8,
        }
    },
}


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_absorbed_decoding_of_ragged_rows_equals_the_full_forward(build, changes):
    model = build(**changes)
    tokens = torch.randint(0, 60, (3, 30), generator=torch.Generator().manual_seed(0))
    starts = torch.tensor([4, 11, 7])
    with torch.no_grad():
        expected = model(tokens)
        decoder = Decoder(model)
        latents, logits = decoder.prefill(tokens[:, :11], starts)
        cache = LatentCache.empty(model.config, logits)
        cache.extend(latents, starts)
        cache.reserve(30)
        rows = torch.arange(3)
        torch.testing.assert_close(logits, expected[rows, starts - 1], atol=1e-4, rtol=1e-4)
        for step in range(15):
            places = starts + step
            logits = decoder.step(tokens[rows, places], cache, 11 + step + 1)
            torch.testing.assert_close(logits, expected[rows, places], atol=1e-4, rtol=1e-4)
    assert cache.data.shape[-1] == model.config.kv_lora_rank + model.config.qk_rope_head_dim
    assert cache.lengths.tolist() == [19, 26, 22]


def test_a_cache_keeps_the_rows_it_is_told_to(build):
    model = build()
    tokens = torch.randint(0, 60, (3, 9), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([9, 9, 9])
    with torch.no_grad():
        decoder = Decoder(model)
        latents, logits = decoder.prefill(tokens, lengths)
        cache = LatentCache.empty(model.config, logits)
        cache.extend(latents, lengths)
        cache.reserve(10)
        cache.select(torch.tensor([2, 0]), 9)
        cache.reserve(10, ahead=5)
        following = torch.tensor([5, 6])
        logits = decoder.step(following, cache, 10)
        whole = torch.cat([tokens[[2, 0]], following[:, None]], 1)
        torch.testing.assert_close(logits, model(whole)[:, -1], atol=1e-4, rtol=1e-4)


def test_temperature_is_folded_into_the_head(build):
    model = build()
    tokens = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        _, logits = Decoder(model, temperature=0.5).prefill(tokens, torch.tensor([3]))
        torch.testing.assert_close(logits, model(tokens)[:, -1] / 0.5, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_short_attention_equals_the_plain_formula(length):
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 3, length, 8).requires_grad_().unbind()
    v = torch.randn(2, 3, length, 5, requires_grad=True)
    weight = torch.randn(2, 3, length, 5)
    future = torch.full((length, length), -torch.inf).triu(1)
    plain = (q @ k.transpose(-1, -2) * 0.3 + future).softmax(-1) @ v
    blocked = causal_attention(q, k, v, 0.3)
    torch.testing.assert_close(blocked, plain, atol=1e-5, rtol=1e-4)
    for own, other in zip(
        torch.autograd.grad((blocked * weight).sum(), [q, k, v], retain_graph=True),
        torch.autograd.grad((plain * weight).sum(), [q, k, v]),
        strict=True,
    ):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-4)


def test_long_sequences_take_the_fused_kernel_to_the_same_result(build, monkeypatch):
    model = build()
    tokens = torch.randint(0, 60, (2, 90), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        short = model(tokens)
        monkeypatch.setattr("model.attention.SHORT", 10)
        torch.testing.assert_close(model(tokens), short, atol=1e-4, rtol=1e-4)


def test_rotation_depends_on_distance_alone(tiny):
    rope = Rope(tiny())
    turns = rope(torch.arange(100))
    torch.testing.assert_close(turns[70] * turns[30].conj(), turns[40], atol=1e-4, rtol=1e-4)


def test_yarn_keeps_fast_pairs_and_slows_slow_ones(tiny):
    # The figures of DeepSeek-V3: ramp over the pair indices 10 to 23 of 32.
    yarn = {"factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 1.0, "mscale_all_dim": 1.0}
    plain = Rope(tiny(qk_rope_head_dim=64)).frequencies
    slowed = Rope(tiny(qk_rope_head_dim=64, rope_scaling=yarn)).frequencies
    ratio = plain / slowed
    torch.testing.assert_close(ratio[:11], torch.ones(11))
    torch.testing.assert_close(ratio[23:], torch.full((9,), 40.0))
    assert (ratio[10:24].diff() > 0).all()


def test_padding_to_the_right_changes_nothing_before_it(build):
    model = build()
    tokens = torch.randint(0, 60, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[:, :12], model(tokens[:, :12]), atol=1e-5, rtol=1e-4)


def test_multi_token_states_see_the_next_token_and_none_after(build):
    model = build(num_nextn_predict_layers=1)
    tokens = torch.randint(0, 60, (1, 12), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 6] = (tokens[0, 6] + 1) % 60
    with torch.no_grad():
        before, after = model.hidden_with_mtp(tokens)[1], model.hidden_with_mtp(changed)[1]
    same = (before - after).abs().amax(-1)[0] < 1e-6
    # The state at 5 predicts token 7 from tokens 0 to 6: token 6 enters there first.
    assert same.tolist() == [True] * 5 + [False] * 6


def test_multi_token_head_learns_the_token_after_next(build):
    """Where t+2 repeats t, and t+1 is random, only a head that predicts t+2 can reach zero loss."""
    torch.manual_seed(0)
    model = build(num_nextn_predict_layers=1, initializer_range=0.05).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        tokens = torch.randint(0, 8, (32, 2)).repeat(1, 4)
        _, further = model.hidden_with_mtp(tokens)
        loss = torch.nn.functional.cross_entropy(model.logits(further[:, :-1]).flatten(0, 1), tokens[:, 2:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


def test_routing_receives_the_scores_of_each_layer(build):
    model = build(num_nextn_predict_layers=1)
    tokens = torch.randint(0, 60, (2, 9))
    routing = []
    model.hidden_with_mtp(tokens, None, routing)
    assert [tuple(scores.shape) for scores in routing] == [(2, 9, 8), (2, 9, 8), (2, 8, 8)]
    x = model.model.embed_tokens(tokens)
    x = model.model.layers[0](x, model.model.rotation(9))
    attended = x + model.model.layers[1].self_attn(model.model.layers[1].input_layernorm(x), model.model.rotation(9))
    normed = model.model.layers[1].post_attention_layernorm(attended)
    torch.testing.assert_close(routing[0], (normed @ model.model.layers[1].mlp.gate.weight.t()).sigmoid())


def test_max_violation_is_the_mean_over_layers(build):
    model = build()
    first, second = model.model.moe_layers()
    first.load.copy_(torch.tensor([4, 0, 2, 2, 2, 2, 2, 2]))
    second.load.fill_(3)
    assert model.max_violation() == pytest.approx(0.5)
    model.update_bias(0.1)
    assert model.max_violation() == 0.0
    assert build(first_k_dense_replace=3).max_violation() == 0.0


def test_sequences_longer_than_the_model_are_refused(build):
    with pytest.raises(ValueError, match="129 tokens"):
        build()(torch.zeros(1, 129, dtype=torch.long))


def test_a_model_without_multi_token_layer_says_so(build):
    with pytest.raises(ValueError, match="num_nextn_predict_layers"):
        build().hidden_with_mtp(torch.zeros(1, 4, dtype=torch.long))


def test_reward_is_read_at_the_last_valid_token(build):
    policy = build(num_nextn_predict_layers=1)
    judge = RewardModel.from_policy(policy).eval()
    tokens = torch.randint(0, 60, (2, 10), generator=torch.Generator().manual_seed(0))
    padded = tokens.clone()
    padded[1, 6:] = 0
    with torch.no_grad():
        scores = judge(padded, torch.tensor([10, 6]))
        expected = [
            judge.score(policy.hidden(tokens[:1]))[0, -1, 0],
            judge.score(policy.hidden(tokens[1:, :6]))[0, -1, 0],
        ]
    torch.testing.assert_close(scores, torch.stack(expected), atol=1e-5, rtol=1e-4)


def test_reward_model_is_a_copy(build):
    policy = build()
    judge = RewardModel.from_policy(policy)
    with torch.no_grad():
        judge.model.embed_tokens.weight.zero_()
    assert policy.model.embed_tokens.weight.abs().sum() > 0


def test_initialisation_has_the_configured_spread(tiny):
    torch.manual_seed(0)
    model = Transformer(tiny(initializer_range=0.05, hidden_size=64))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == 1).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.05, rel=0.15), name


def test_autocast_in_bfloat16_stays_near_float32(build):
    model = build(num_nextn_predict_layers=1, q_lora_rank=16)
    tokens = torch.randint(0, 60, (2, 20), generator=torch.Generator().manual_seed(0))
    exact = model.hidden(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.hidden(tokens)
        further = model.hidden_with_mtp(tokens)[1]
    rough.float().sum().backward()
    assert further.isfinite().all()
    near = (exact - rough.float()).flatten(0, 1).norm(dim=-1) < 0.1 * exact.flatten(0, 1).norm(dim=-1)
    assert near.float().mean() > 0.8  # rounding may send a token to another expert


def test_the_violation_of_each_layer_is_told_by_its_number(build):
    model = build(num_nextn_predict_layers=1).train()
    tokens = torch.randint(0, 60, (4, 20), generator=torch.Generator().manual_seed(0))
    model.hidden(tokens)
    expected = [float(layer.max_violation()) for layer in model.model.moe_layers()]
    assert model.update_bias(0.1) == pytest.approx({1: expected[0], 2: expected[1]})
    model.hidden_with_mtp(tokens)
    assert set(model.update_bias(0.1)) == {1, 2, 3}
    assert model.update_bias(0.1) == {}
