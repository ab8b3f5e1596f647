"""A run of the smallest model that draws from every random generator; `python -m` trains on to a step.

What must survive a checkpoint is here: weights, moments, the routers' bias, the loop's sampler, the place in
the data, and the shared generators, which the noise on the weights' gradients reads.
"""

import random
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from chimera.block import Block
from chimera.looping import draw_rounds
from chimera.model import ChimeraForCausalLM, build
from chimera.train.checkpoint import load_latest, save
from chimera.train.randomness import random_states, restore_random_states
from chronos_moe.feed_forward import MoEFeedForward
from chronos_moe.passes import counts_by_layer
from configs.load import preset

ROWS, TOKENS = 2, 12


class SmallRun:
    """Model, optimiser, sampler and place in the data of one run."""

    def __init__(self) -> None:
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)
        self.config = preset("micro")
        self.model: ChimeraForCausalLM = build(self.config).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.95))
        self.sampler = torch.Generator().manual_seed(1)
        self.position = 0
        self.moe = {
            index: block.ffn
            for index, block in enumerate(cast("list[Block]", list(self.model.layers)))
            if isinstance(block.ffn, MoEFeedForward)
        }

    def step(self) -> None:
        """One step on the next rows of an endless text."""
        generator = torch.Generator().manual_seed(self.position)
        ids_BT = torch.randint(self.config.vocab_size, (ROWS, TOKENS), generator=generator)
        least, most = self.config.looping.loop_range
        rounds = draw_rounds(ROWS, mean=2, least=least, most=most, generator=self.sampler)
        out = self.model(ids_BT, rounds=rounds)
        self.optimizer.zero_grad()
        self.model.loss(out.hidden_BTD[:, :-1], ids_BT[:, 1:]).backward()
        with torch.no_grad():
            noise = random.random() + np.random.random() + torch.rand(())
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.add_(noise * 1e-3)
        self.optimizer.step()
        counts_LE = counts_by_layer(
            out.routing, layers=list(self.moe), num_experts=self.config.backbone.moe.n_routed_experts
        )
        for ffn, counts_E in zip(self.moe.values(), counts_LE, strict=True):
            ffn.update_bias(counts_E)
        self.position += 1

    def state(self) -> dict[str, Any]:
        """All of it."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": random_states(),
            "extra": {"position": self.position, "sampler": self.sampler.get_state()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Be the run that gave this state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        restore_random_states(state["rng"])
        self.position = state["extra"]["position"]
        self.sampler.set_state(state["extra"]["sampler"])


def main(folder: Path, last: int) -> None:
    """Train on from the newest checkpoint to a step, and save there."""
    torch.set_num_threads(1)
    run = SmallRun()
    if found := load_latest(folder):
        run.restore(found.state)
    while run.position < last:
        run.step()
    save(folder, run.state(), step=run.position)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
