"""Steps as CUDA graphs are the steps that run plainly; how their inputs are found and kept runs anywhere."""

import pytest
import torch

from chimera.model import ExpertControl
from chimera.train.graphed import WARM_RUNS, _copied, _tensors
from chimera.train.step import MicroBatch, StepOptions, StepResult, TrainStep
from tests.chimera.train.steps import fresh_step, grads_of, rows_of_chance, weights_of

NUM_STEPS = 24


def test_inputs_are_found_in_order_and_kept_apart():
    batch = rows_of_chance(2, 8)
    experts = ExpertControl(available_LE=torch.ones(2, 4))
    found = _tensors((batch, experts))
    assert [tensor.shape for tensor in found] == [(2, 8), (2, 8), (2, 8), (2, 4)]
    kept_batch, kept_experts = _copied((batch, experts))
    assert isinstance(kept_batch, MicroBatch)
    assert isinstance(kept_experts, ExpertControl)
    assert kept_batch.max_documents == batch.max_documents
    for place, given in zip(_tensors((kept_batch, kept_experts)), found, strict=True):
        assert torch.equal(place, given)
        assert place.data_ptr() != given.data_ptr()
    assert len(_tensors((batch._replace(resets_BT=None), None))) == 2


def on_gpu(batch: MicroBatch) -> MicroBatch:
    return MicroBatch(*(part.cuda() if isinstance(part, torch.Tensor) else part for part in batch))


def many_steps(step: TrainStep, *, apply: bool) -> list[StepResult]:
    """Steps of all depths, each often enough to be captured and replayed."""
    return [
        step.run(
            [on_gpu(rows_of_chance(2, 32, seed=2 * number + place)) for place in (0, 1)],
            step=number,
            apply=apply,
        )
        for number in range(NUM_STEPS)
    ]


@pytest.fixture
def replayed() -> TrainStep:
    changes = {"chronos": {"expert_dropout": 0.25}}
    return fresh_step(changes, ternary=False, device="cuda", options=StepOptions(bf16=True, graphs=True))


@pytest.fixture
def plain() -> TrainStep:
    return fresh_step(
        {"chronos": {"expert_dropout": 0.25}}, ternary=False, device="cuda", options=StepOptions(bf16=True)
    )


@pytest.mark.gpu
def test_replayed_steps_have_the_losses_and_gradients_of_plain_ones(replayed: TrainStep, plain: TrainStep):
    drawn = [depth for number in range(NUM_STEPS) for depth in replayed._depths(number, 2)]
    assert max(drawn.count(depth) for depth in set(drawn)) > WARM_RUNS + 1
    results = [many_steps(step, apply=False) for step in (replayed, plain)]
    assert replayed._graphed is not None
    assert replayed._graphed._captured
    for one, other in zip(*results, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.terms == pytest.approx(other.terms, rel=1e-4)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-3)
        assert torch.equal(one.counts_LE, other.counts_LE)
    grads = grads_of(plain)
    for name, grad in grads_of(replayed).items():
        assert (grad - grads[name]).norm() <= 1e-3 * whole_norm(grads), name


def whole_norm(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([tensor.float().norm() for tensor in tensors.values()]).norm()


@pytest.mark.gpu
def test_replayed_steps_learn_what_plain_ones_learn(replayed: TrainStep, plain: TrainStep):
    before = weights_of(plain)
    results = [many_steps(step, apply=True) for step in (replayed, plain)]
    assert results[0][-1].loss == pytest.approx(results[1][-1].loss, rel=1e-2)
    one, other = weights_of(replayed), weights_of(plain)
    names = [name for name in before if before[name].is_floating_point()]
    moved = whole_norm({name: other[name] - before[name] for name in names})
    apart = whole_norm({name: other[name] - one[name] for name in names})
    assert moved > 0
    assert apart < 0.1 * moved


@pytest.mark.gpu
# The compiler of some versions of PyTorch calls what PyTorch itself has deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
@pytest.mark.filterwarnings("ignore:\\s*Online softmax is disabled:UserWarning")
def test_compiled_blocks_are_replayed_too(plain: TrainStep):
    changes = {"chronos": {"expert_dropout": 0.25}}
    compiled = fresh_step(
        changes, ternary=False, device="cuda", compiled=True, options=StepOptions(bf16=True, graphs=True)
    )
    for one, other in zip(many_steps(compiled, apply=False), many_steps(plain, apply=False), strict=True):
        # What is fused is rounded to bfloat16 less often.
        assert one.loss == pytest.approx(other.loss, rel=2e-3)
