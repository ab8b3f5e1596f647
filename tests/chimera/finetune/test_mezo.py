"""MeZO on latent weights: nothing is left behind by a look, and a log is enough to be where a run was."""

import pytest
import torch
import torch.nn.functional as F

from chimera.finetune.mezo import Mezo, MezoSettings, sequence_losses
from chimera.finetune.trained import put_on_grid
from configs.errors import UsageError
from quant.qat.linear import BitLinear, set_quant_mix
from quant.qat.sherry import use_sherry
from tests.chimera.finetune.models import digest, model, two_classes

EVERY_KIND = [
    MezoSettings(seed=5),
    MezoSettings(seed=5, trained="all", distribution="gaussian"),
    MezoSettings(seed=5, trained="light"),
    MezoSettings(seed=5, sparse=True, sparse_period=2),
]


@pytest.mark.parametrize("settings", EVERY_KIND, ids=lambda settings: settings.trained)
def test_looks_leave_nothing_behind(settings: MezoSettings):
    tuned = model()
    run = Mezo(tuned, settings=settings)
    before = digest(tuned)
    seen: set[str] = set()
    for step, pair, side in [(0, 0, 1), (0, 0, -1), (0, 1, 1), (0, 1, -1), (1, 0, -1), (2, 0, 1)]:
        run.look(step, pair=pair, side=side)
        seen.add(digest(tuned))
    run.look(2, side=0)
    assert digest(tuned) == before
    assert len(seen) == 6


@pytest.mark.parametrize("settings", EVERY_KIND, ids=lambda settings: settings.trained)
def test_a_replay_is_the_run_bit_for_bit(settings: MezoSettings):
    tuned = model()
    live = Mezo(tuned, settings=settings)
    log: list[list[float]] = []
    for step in range(3):
        ids, labels = two_classes(step)
        lengths: list[float] = []
        for pair in range(2):
            means: list[float] = []
            for side in (1, -1):
                live.look(step, pair=pair, side=side)
                means.append(float(sequence_losses(tuned, ids, labels).mean()))
            lengths.append(-0.02 * live.slope(*means))
        live.apply(step, lengths, decay=1e-3)
        log.append(lengths)
    again = model()
    replay = Mezo(again, settings=settings)
    untouched = digest(again)
    for step, lengths in enumerate(log):
        replay.apply(step, lengths, decay=1e-3)
    assert digest(again) == digest(tuned) != untouched


def test_the_loss_of_a_head_of_two_classes_falls():
    generator = torch.Generator().manual_seed(0)
    x_BD = torch.randn(64, 128, generator=generator)
    class_B = (x_BD @ torch.randn(128, generator=generator) > 0).long()
    torch.manual_seed(0)
    head = BitLinear(128, 2)
    run = Mezo(head, settings=MezoSettings(seed=1))

    @torch.no_grad()
    def loss() -> float:
        return float(F.cross_entropy(head(x_BD) * 16, class_B))

    first = loss()
    for step in range(300):
        means: list[float] = []
        for side in (1, -1):
            run.look(step, side=side)
            means.append(loss())
        run.apply(step, [-0.05 * (1 - step / 300) * run.slope(*means)])
    assert loss() < first * 0.8


def test_a_look_changes_what_the_quantised_model_says():
    tuned = model()
    run = Mezo(tuned, settings=MezoSettings(seed=5))
    ids, labels = two_classes(0)
    run.look(0, side=1)
    above = sequence_losses(tuned, ids, labels)
    run.look(0, side=-1)
    assert float((above - sequence_losses(tuned, ids, labels)).abs().mean()) > 1e-3


def test_a_sparse_run_leaves_zeros_alone_but_every_so_many_steps():
    linear = BitLinear(256, 8)
    run = Mezo(linear, settings=MezoSettings(seed=5, sparse=True, sparse_period=3))

    def changed(step: int) -> float:
        zeros, before = linear.quantized_weight() == 0, linear.weight.clone()
        run.apply(step, [0.01])
        return float((linear.weight != before)[zeros].float().mean())

    assert [changed(step) for step in range(6)] == [0, 0, 1, 0, 0, 1]


def test_the_light_form_moves_queries_and_values_and_has_quantised_the_rest():
    plain, light = model(), model()
    names = {held.name for held in Mezo(light, settings=MezoSettings(seed=5, trained="light")).tensors}
    assert names
    assert all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in names)
    frozen = dict(light.named_modules())
    for name, module in plain.named_modules():
        if isinstance(module, BitLinear) and f"{name}.weight" not in names:
            held = frozen[name]
            assert isinstance(held, BitLinear)
            assert torch.equal(held.weight, module.quantized_weight())
            assert torch.equal(held.quantized_weight(), held.weight), "no second time"


def test_tied_weights_are_moved_once():
    tied = model()
    tied.register_parameter("head", tied.embedding.weight)
    run = Mezo(tied, settings=MezoSettings(seed=5, trained="all"))
    before = tied.embedding.weight.clone()
    run.look(0, side=1)
    once = tied.embedding.weight - before
    scale = before.abs().mean(dim=1, keepdim=True)
    torch.testing.assert_close(once.abs(), (0.05 * scale).expand_as(once), rtol=1e-4, atol=1e-9)


def test_a_sequence_without_labels_has_no_loss():
    ids, labels = two_classes(0)
    labels[0] = -100
    losses = sequence_losses(model().eval(), ids, labels)
    assert losses[0] == 0
    assert (losses[1:] > 0).all()


def test_weights_that_this_method_does_not_know_are_refused():
    sherry = model()
    use_sherry(sherry)
    with pytest.raises(UsageError, match="sherry"):
        put_on_grid(sherry, trained="ternary")
    mixed = model()
    set_quant_mix(mixed, 0.5)
    with pytest.raises(UsageError, match="free ternary"):
        put_on_grid(mixed, trained="ternary")


@pytest.mark.parametrize("wrong", [{"epsilon": 0.0}, {"epsilon": 2.0}, {"sparse_period": 0}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]):
    with pytest.raises(UsageError, match="allowed"):
        MezoSettings(seed=1, **wrong)  # pyright: ignore[reportArgumentType]
