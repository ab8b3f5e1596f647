"""MeZO on a GPU: a log that it wrote gives a CPU the same weights."""

import pytest
import torch

from chimera.finetune.mezo import Mezo, sequence_losses
from tests.chimera.finetune.models import digest, model, two_classes
from tests.chimera.finetune.test_mezo import EVERY_KIND

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("number", range(len(EVERY_KIND)))
def test_a_log_gives_the_same_weights_on_either_device(number: int):
    settings = EVERY_KIND[number]
    tuned = model().cuda()
    live = Mezo(tuned, settings=settings)
    log: list[float] = []
    for step in range(9):
        ids, labels = two_classes(step)
        means: list[float] = []
        for side in (1, -1):
            live.look(step, side=side)
            losses = sequence_losses(tuned, ids.cuda(), labels.cuda())
            assert torch.equal(losses, sequence_losses(tuned, ids.cuda(), labels.cuda()))
            means.append(float(losses.mean()))
        log.append(-0.02 * live.slope(*means))
        live.apply(step, [log[-1]], decay=1e-3)
    again = model()
    replay = Mezo(again, settings=settings)
    untouched = digest(again)
    for step, length in enumerate(log):
        replay.apply(step, [length], decay=1e-3)
    assert digest(again) == digest(tuned.cpu()) != untouched
