"""The router anchor: zero at the reference, a real gradient, the same tokens."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from chronos_moe.anchor import RouterAnchor, routing_kl
from chronos_moe.passes import RoutingPass
from chronos_moe.router import RoutingRecord, route
from configs.errors import UsageError


class TwoRouters(nn.Module):
    """A stand-in model: an embedding and two routers, the second visited in two rounds."""

    def __init__(self, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embedding = nn.Parameter(torch.randn(11, 8, generator=generator, dtype=dtype))
        self.routers = nn.Parameter(torch.randn(2, 5, 8, generator=generator, dtype=dtype))


VISITS = ((0, 0), (1, 0), (1, 1))


def routed(x_BTD: Tensor, routers: Tensor) -> list[RoutingPass]:
    return [
        RoutingPass(layer, round, None, route(x_BTD.roll(layer + round, -1), routers[layer], num_chosen=2))
        for layer, round in VISITS
    ]


def run_routing(model: nn.Module, ids_BT: Tensor) -> Sequence[RoutingPass]:
    assert isinstance(model, TwoRouters)
    return routed(model.embedding[ids_BT], model.routers)


def measured(anchor: RouterAnchor, model: nn.Module, ids_BT: Tensor) -> float:
    return anchor(run_routing(model, ids_BT), ids_BT).item()


IDS = torch.tensor([[1, 5, 2, 10], [0, 0, 7, 3]])


def moved_model() -> TwoRouters:
    model = TwoRouters()
    with torch.no_grad():
        model.routers += 0.3 * torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    return model


def test_the_anchor_is_zero_at_the_reference_and_positive_away_from_it():
    model = TwoRouters()
    anchor = RouterAnchor(model, run_routing=run_routing)
    assert measured(anchor, model, IDS) == pytest.approx(0.0, abs=1e-7)
    assert measured(anchor, moved_model(), IDS) > 1e-3


def test_the_anchor_is_the_categorical_divergence():
    model = moved_model()
    ours, theirs = run_routing(model, IDS), run_routing(TwoRouters(), IDS)
    expected = torch.stack(
        [
            torch.distributions.kl_divergence(
                torch.distributions.Categorical(probs=policy.record.probs),
                torch.distributions.Categorical(probs=reference.record.probs),
            ).mean()
            for policy, reference in zip(ours, theirs, strict=True)
        ]
    ).mean()
    torch.testing.assert_close(routing_kl(ours, theirs), expected)


def test_the_policy_gets_a_gradient_and_the_reference_none():
    anchor = RouterAnchor(TwoRouters(), run_routing=run_routing)
    model = moved_model()
    anchor(run_routing(model, IDS), IDS).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.norm()) > 1e-4
    assert not any(parameter.requires_grad for parameter in anchor._reference.parameters())


def test_descending_the_anchor_brings_the_routing_back():
    anchor, model = RouterAnchor(TwoRouters(), run_routing=run_routing), moved_model()
    optimiser = torch.optim.Adam([model.routers], lr=0.02)
    losses = []
    for _ in range(150):
        optimiser.zero_grad()
        loss = anchor(run_routing(model, IDS), IDS)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_gradient_is_that_of_the_divergence():
    reference = run_routing(TwoRouters(dtype=torch.float64), IDS)
    model = TwoRouters(seed=3, dtype=torch.float64)

    def anchor_of(routers: Tensor) -> Tensor:
        return routing_kl(routed(model.embedding[IDS], routers), reference)

    assert torch.autograd.gradcheck(anchor_of, (model.routers,))


def detached(passes: Sequence[RoutingPass]) -> list[RoutingPass]:
    return [p._replace(record=RoutingRecord(*(tensor.detach() for tensor in p.record))) for p in passes]


def test_a_policy_that_was_collected_detached_is_refused():
    anchor, model = RouterAnchor(TwoRouters(), run_routing=run_routing), moved_model()
    with pytest.raises(UsageError, match="carries no gradient"):
        anchor(detached(run_routing(model, IDS)), IDS)
    with torch.no_grad():
        assert measured(anchor, model, IDS) > 1e-3, "measuring needs no gradient"


def test_other_tokens_are_refused():
    anchor, model = RouterAnchor(TwoRouters(), run_routing=run_routing), moved_model()
    with pytest.raises(UsageError, match="routed 2 sequences of 4 tokens to 5 experts, the reference 1"):
        anchor(run_routing(model, IDS), IDS[:1])
    with pytest.raises(UsageError, match="layer 0, round 0, the policy routed 0 sequences of 3 tokens"):
        anchor(run_routing(model, IDS), IDS[:, :3])
    with pytest.raises(UsageError, match="layer 1, round 1, the policy routed 0 sequences"):
        anchor(run_routing(model, IDS)[:2], IDS)


def rows_of(one: RoutingPass, rows: list[int]) -> RoutingPass:
    return one._replace(
        rows=torch.tensor(rows), record=RoutingRecord(*(tensor[rows] for tensor in one.record))
    )


def test_rounds_may_be_cut_into_passes_differently():
    """Training cuts a round where back-propagation begins; evaluation does not."""
    model = moved_model()
    ours, theirs = run_routing(model, IDS), run_routing(TwoRouters(), IDS)
    cut = [ours[0], rows_of(ours[1], [1]), rows_of(ours[1], [0]), ours[2]]
    torch.testing.assert_close(routing_kl(cut, theirs), routing_kl(ours, theirs))
    turned = [ours[0], rows_of(ours[1], [1, 0]), ours[2]]
    torch.testing.assert_close(
        routing_kl(ours, [theirs[0], *cut_of(theirs[1]), theirs[2]]), routing_kl(turned, theirs)
    )


def cut_of(one: RoutingPass) -> list[RoutingPass]:
    return [rows_of(one, [1]), rows_of(one, [0])]


def test_sequences_of_other_depths_show():
    ours, theirs = run_routing(moved_model(), IDS), run_routing(TwoRouters(), IDS)
    policy, reference = [*ours[:2], rows_of(ours[2], [0])], [*theirs[:2], rows_of(theirs[2], [1])]
    assert torch.isnan(routing_kl(policy, reference))


def test_early_rounds_of_a_truncated_loop_may_lack_a_gradient():
    ours, theirs = run_routing(moved_model(), IDS), run_routing(TwoRouters(), IDS)
    early = [*detached(ours[:2]), ours[2]]
    assert routing_kl(early, theirs).requires_grad
    torch.testing.assert_close(routing_kl(early, theirs), routing_kl(ours, theirs))


def test_the_reference_stays_as_it_was_copied():
    model = TwoRouters()
    anchor = RouterAnchor(model, run_routing=run_routing)
    with torch.no_grad():
        model.routers.mul_(-1)
    assert measured(anchor, model, IDS) > 0.1


def test_padding_is_left_out():
    ours, theirs = run_routing(moved_model(), IDS), run_routing(TwoRouters(), IDS)
    mask = torch.tensor([[True, True, True, False], [False, True, True, True]])
    kl = (ours[0].record.probs * (ours[0].record.log_probs - theirs[0].record.log_probs)).sum(-1)
    torch.testing.assert_close(routing_kl(ours[:1], theirs[:1], mask_BT=mask), kl[mask].mean())
    cut = cut_of(ours[0])
    halves = (3 * kl[0, :3].mean() + 3 * kl[1, 1:].mean()) / 6
    torch.testing.assert_close(routing_kl(cut, theirs[:1], mask_BT=mask), halves)


def test_a_model_without_experts_has_no_anchor():
    with pytest.raises(UsageError, match="no routing to anchor"):
        routing_kl([], [])
