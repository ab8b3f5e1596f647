"""A slow sampler that is plainly right: the model steps token by token, and each choice is written out.

It is what the runtime's sampler and engine are compared with, not what people run.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from chimera.model import ChimeraForCausalLM
from configs.errors import UsageError


@torch.no_grad()
def generate(
    model: ChimeraForCausalLM,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    rounds: int | None = None,
    exit_threshold: float = 0.0,
) -> Iterator[int]:
    """New ids one by one, until the end of the text or `max_new_tokens`. Temperature 0 takes the best."""
    if not prompt:
        raise UsageError(
            "an empty prompt; at least one token is needed", hint="Begin with the end-of-text token."
        )
    _check_choices(temperature, top_k=top_k, top_p=top_p, repetition_penalty=repetition_penalty)
    generator = torch.Generator().manual_seed(seed)
    device = model.final_norm.weight.device
    was_training = model.training
    model.eval()
    seen, fed, state = list(prompt), list(prompt), None
    try:
        for _ in range(max_new_tokens):
            ids_BT = torch.tensor([fed], device=device)
            out = model(ids_BT, state=state, rounds=rounds, exit_threshold=exit_threshold)
            logits_N = model.logits(out.hidden_BTD[:, -1])[0].float().cpu()
            penalise_repeats(logits_N, seen, penalty=repetition_penalty)
            chosen = choose(logits_N, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
            if chosen == model.config.token_ids[0]:
                return
            yield chosen
            seen.append(chosen)
            fed, state = [chosen], out.state
    finally:
        model.train(was_training)


def penalise_repeats(logits_N: Tensor, seen: Sequence[int], *, penalty: float) -> None:
    """Divide the positive scores of words already seen, and multiply the negative ones, in place."""
    if penalty == 1.0:
        return
    ids = torch.tensor(sorted(set(seen)))
    scores = logits_N[ids]
    logits_N[ids] = torch.where(scores > 0, scores / penalty, scores * penalty)


def choose(
    logits_N: Tensor, *, temperature: float, top_k: int, top_p: float, generator: torch.Generator
) -> int:
    """One id. Ranks are by falling score, the lower id first among equals."""
    order_N = torch.sort(logits_N, descending=True, stable=True).indices
    if temperature == 0.0:
        return int(order_N[0])
    probs_N = torch.softmax(logits_N[order_N] / temperature, dim=0)
    if top_k:
        probs_N[top_k:] = 0.0
    # A word is kept while the words before it hold less than top_p; the first is always kept.
    before_N = probs_N.cumsum(0) - probs_N
    probs_N[1:] = torch.where(before_N[1:] < top_p * probs_N.sum(), probs_N[1:], 0.0)
    return int(order_N[torch.multinomial(probs_N, 1, generator=generator)])


def _check_choices(temperature: float, *, top_k: int, top_p: float, repetition_penalty: float) -> None:
    if not temperature >= 0.0:
        raise UsageError(f"temperature {temperature}; at least 0 is allowed, and 0 takes the best word")
    if top_k < 0:
        raise UsageError(f"top_k {top_k}; at least 0 is allowed, and 0 keeps every word")
    if not 0.0 < top_p <= 1.0:
        raise UsageError(f"top_p {top_p}; above 0 and at most 1 is allowed")
    if not repetition_penalty > 0.0:
        raise UsageError(f"repetition_penalty {repetition_penalty}; above 0 is allowed, and 1 is none")
