"""The whole model: its tensors, its states, its rounds, what it refuses."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.mixers.packing import packing_of
from chimera.model import ChimeraForCausalLM, build
from configs import accounting
from configs.errors import UsageError
from configs.inventory import tensors
from configs.load import PRESETS, build_config, preset
from quant.qat.linear import set_quant_mix

WORDS = 512


@lru_cache(maxsize=1)
def micro() -> ChimeraForCausalLM:
    """The smallest model with every kind of layer, in float: rounding to int8 would hide what is compared."""
    torch.manual_seed(3)
    model = build(preset("micro")).eval()
    set_quant_mix(model, 0.0)
    return model


def text(*, rows: int = 2, tokens: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randint(WORDS, (rows, tokens), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PRESETS)
def test_the_model_has_the_tensors_of_the_inventory(name: str):
    config = preset(name)
    model = build(config, device="meta")
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert found == {tensor.name: tensor.shape for tensor in tensors(config)}
    assert sum(p.numel() for p in model.parameters()) == accounting.parameters(config)
    assert {name for name, _ in model.named_buffers()} == {t.name for t in tensors(config) if t.buffer}


@pytest.mark.parametrize("embedding_bits", [8, 4, 2])
@pytest.mark.parametrize("scale", ["absmean_per_group", "absmean_per_row", "absmean_per_tensor"])
def test_every_granularity_computes_something_finite(embedding_bits: int, scale: str):
    quantization = {"embedding_bits": embedding_bits, "weight_scale": scale}
    model = build(build_config({"preset": "micro", "quantization": quantization}, source="test"))
    assert torch.isfinite(model.logits(model(text()).hidden_BTD)).all()


@torch.no_grad()
@pytest.mark.parametrize("rounds", [1, 2, 4])
@pytest.mark.parametrize("exit_threshold", [0.0, 0.6])
def test_a_prompt_at_once_equals_its_tokens_one_by_one(rounds: int, exit_threshold: float):
    model, ids = micro(), text()
    whole = model(ids, rounds=rounds, exit_threshold=exit_threshold)
    state, steps, taken = model.initial_state(2, rounds=rounds), [], []
    for token in range(ids.shape[1]):
        one = model(ids[:, token : token + 1], state=state, rounds=rounds, exit_threshold=exit_threshold)
        state = one.state
        steps.append(one.hidden_BTD)
        taken.append(one.rounds_BT)
    assert torch.equal(torch.cat(taken, dim=1), whole.rounds_BT)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole.hidden_BTD, rtol=0, atol=2e-4)


@torch.no_grad()
@settings(max_examples=6, deadline=None)
@given(cuts=st.lists(st.integers(1, 39), max_size=4))
def test_a_prompt_may_be_cut_anywhere(cuts: Sequence[int]):
    model, ids = micro(), text()
    edges = [0, *sorted(set(cuts)), ids.shape[1]]
    state, parts = None, []
    for start, end in pairwise(edges):
        out = model(ids[:, start:end], state=state)
        state = out.state
        parts.append(out.hidden_BTD)
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids).hidden_BTD, rtol=0, atol=2e-4)


@torch.no_grad()
def test_rows_of_different_depth_equal_rows_run_alone():
    model, ids, depths = micro(), text(rows=4), [2, 1, 4, 2]
    together = model(ids, rounds=depths)
    for row, depth in enumerate(depths):
        alone = model(ids[row : row + 1], rounds=depth)
        torch.testing.assert_close(together.hidden_BTD[row : row + 1], alone.hidden_BTD, rtol=0, atol=1e-5)
    assert together.rounds_BT[:, 0].tolist() == depths


@torch.no_grad()
def test_rows_of_different_depth_go_on_from_their_states():
    model, ids, depths = micro(), text(rows=3), [1, 3, 2]
    first = model(ids[:, :20], rounds=depths)
    second = model(ids[:, 20:], rounds=depths, state=first.state)
    whole = model(ids, rounds=depths)
    torch.testing.assert_close(second.hidden_BTD, whole.hidden_BTD[:, 20:], rtol=0, atol=2e-4)


@torch.no_grad()
def test_a_still_token_leaves_the_loop_and_the_others_go_on():
    model, ids = micro(), text(rows=1)
    changes = sorted(
        {int(r) for t in (0.3, 0.5, 0.6, 0.7) for r in model(ids, rounds=4, exit_threshold=t).rounds_BT[0]}
    )
    assert len(changes) > 1
    never = model(ids, rounds=3, exit_threshold=1e-9)
    torch.testing.assert_close(never.hidden_BTD, model(ids, rounds=3).hidden_BTD, rtol=0, atol=1e-5)


def test_packed_documents_equal_documents_apart():
    model, ids = micro(), text(rows=1, tokens=61)
    lengths = [17, 1, 30, 13]
    segments = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))[None]
    packed = model(ids, packing=packing_of(segments)).hidden_BTD
    start = 0
    for length in lengths:
        alone = model(ids[:, start : start + length]).hidden_BTD
        torch.testing.assert_close(packed[:, start : start + length], alone, rtol=0, atol=2e-4)
        start += length


@torch.no_grad()
def test_packed_documents_may_leave_the_loop_early_too():
    model, ids = micro(), text(rows=1, tokens=30)
    segments = torch.repeat_interleave(torch.arange(2), torch.tensor([14, 16]))[None]
    packed = model(ids, packing=packing_of(segments), rounds=4, exit_threshold=0.6)
    apart = [model(part, rounds=4, exit_threshold=0.6) for part in (ids[:, :14], ids[:, 14:])]
    assert torch.equal(packed.rounds_BT, torch.cat([part.rounds_BT for part in apart], dim=1))
    torch.testing.assert_close(
        packed.hidden_BTD, torch.cat([part.hidden_BTD for part in apart], dim=1), rtol=0, atol=2e-4
    )


@torch.no_grad()
def test_no_token_sees_a_later_one():
    model, ids = micro(), text(rows=1)
    changed = ids.clone()
    changed[0, 25] = (changed[0, 25] + 1) % WORDS
    before, after = model(ids).hidden_BTD, model(changed).hidden_BTD
    assert torch.equal(before[:, :25], after[:, :25])
    assert not torch.equal(before[:, 25:], after[:, 25:])


def test_half_of_the_rounds_are_differentiated():
    torch.manual_seed(1)
    model, ids = build(preset("micro")), text(rows=1)
    set_quant_mix(model, 0.0)

    def gradient(training: bool) -> torch.Tensor:
        model.train(training)
        model.zero_grad()
        model(ids, rounds=4).hidden_BTD.square().sum().backward()
        grad = model.layers[1].mixer.q_proj.weight.grad
        assert grad is not None
        return grad.clone()

    half, whole = gradient(True), gradient(False)
    # By hand: two rounds without a gradient, then two with one.
    loop, run = model.loop, model.config.looping
    assert loop is not None
    model.zero_grad()
    with torch.no_grad():
        outer = model(ids, rounds=4)
    x = model.embedding(ids)
    state = model.initial_state(1, rounds=4)
    x = model.layers[0](x, state[0][0]).x_BTD
    fed, h = loop.enter(x), None
    for done in range(4):
        with torch.set_grad_enabled(done >= 2):
            h = loop.mix(torch.zeros_like(fed) if h is None else h, fed)
            for index in range(run.loop[0], run.loop[1] + 1):
                h = model.layers[index](h, state[index][done]).x_BTD
    assert h is not None
    hidden = model.final_norm(model.layers[3](loop.leave(h), state[3][0]).x_BTD)
    torch.testing.assert_close(hidden, outer.hidden_BTD, rtol=0, atol=1e-5)
    hidden.square().sum().backward()
    by_hand = model.layers[1].mixer.q_proj.weight.grad
    torch.testing.assert_close(half, by_hand)
    assert (half - whole).norm() > 1e-3 * whole.norm()


def test_every_parameter_learns_from_loss_and_lookahead():
    torch.manual_seed(2)
    model, ids = build(preset("micro")).train(), text()
    out = model(ids[:, :-1], rounds=[1, 3])
    assert out.foresight is not None
    (model.loss(out.hidden_BTD, ids[:, 1:]) + out.foresight.exp().square().mean()).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_the_chunked_loss_equals_the_plain_one_with_its_gradients():
    torch.manual_seed(5)
    model, ids = build(preset("micro")), text()
    labels = ids[:, 1:].clone()
    labels[0, :5] = -100
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for chunk in (None, 100):
        model.zero_grad()
        loss = model.loss(model(ids[:, :-1]).hidden_BTD, labels, chunk=chunk)
        loss.backward()
        grad = model.embedding.weight.grad
        assert grad is not None
        found.append((loss.detach(), grad.clone()))
    torch.testing.assert_close(found[0], found[1])


def test_labels_of_another_shape_are_refused():
    model, ids = micro(), text()
    with pytest.raises(UsageError, match=r"labels of \(2, 39\) for hidden vectors of \(2, 40\)"):
        model.loss(model(ids).hidden_BTD, ids[:, 1:])


# PyTorch's own: its compiler makes an instance of the autograd function that it traces.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("index", range(4))
def test_a_block_compiles_without_a_break(index: int):
    torch.manual_seed(8)
    block = build(preset("micro")).layers[index]
    x = torch.randn(2, 33, 128)
    with torch.no_grad():
        state = block.mixer.initial_state(2)
    torch.compiler.reset()
    compiled = torch.compile(block, fullgraph=True, backend="eager")(x, state)
    torch.testing.assert_close(compiled.x_BTD, block(x, state).x_BTD)


def test_low_precision_products_leave_states_in_float32():
    model, ids = micro(), text()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(ids, rounds=2)
    plain = model(ids, rounds=2)

    def tensors_of(state: object) -> list[torch.Tensor]:
        if isinstance(state, torch.Tensor):
            return [state]
        return [tensor for part in state for tensor in tensors_of(part)]  # type: ignore[attr-defined]

    states = [tensor for tensor in tensors_of(out.state) if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in states} == {torch.float32}
    assert all(torch.isfinite(tensor).all() for tensor in tensors_of(out.state) if tensor.dim() > 2)
    cosine = torch.cosine_similarity(out.hidden_BTD.float(), plain.hidden_BTD, dim=-1)
    assert cosine.mean() > 0.99


@pytest.mark.slow
def test_a_page_is_learnt_by_heart():
    torch.manual_seed(0)
    model = build(preset("micro")).train()
    ids = text(rows=2, tokens=49, seed=9)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    first = last = torch.tensor(0.0)
    for step in range(70):
        hidden = model(ids[:, :-1], rounds=[1, 2]).hidden_BTD
        last = model.loss(hidden, ids[:, 1:], chunk=200)
        first = last if step == 0 else first
        last.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    assert first > 6.0
    assert last < 0.5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m(torch.full((1, 3), 512)), "0 to 511"),
        (lambda m: m(torch.full((1, 3), -1)), "0 to 511"),
        (lambda m: m(torch.zeros(1, 0, dtype=torch.int64)), "at least one"),
        (lambda m: m(torch.zeros(3, dtype=torch.int64)), "rows, tokens"),
        (lambda m: m(torch.zeros(1, 3)), "int64"),
        (lambda m: m(text(), rounds=5), "takes 1 to 4"),
        (lambda m: m(text(), rounds=[1]), "1 numbers of rounds for 2 rows"),
        (lambda m: m(text(), state=m.initial_state(3)), "3 streams for 2 rows"),
        (
            lambda m: m(text(), rounds=3, state=m.initial_state(2, rounds=2)),
            "layer 1 has states for 2 rounds",
        ),
        (lambda m: m(text(), state=m.initial_state(2)[:3]), "3 layers for a model of 4"),
    ],
)
def test_what_cannot_work_is_refused(call, words: str):
    with pytest.raises(UsageError, match=words):
        call(micro())


def test_attention_layers_are_described_but_not_built():
    raw = {
        "preset": "micro",
        "backbone": {
            "type": "hybrid",
            "kv_cache": "full",
            "layer_pattern": "GD AT",
            "layer_aliases": {"AT": "gqa"},
        },
    }
    with pytest.raises(UsageError, match="gqa"):
        build(build_config(raw, source="test"))
