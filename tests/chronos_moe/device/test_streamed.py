"""A model on a GPU with its experts on disk writes the text of one that has them all in memory."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from chimera.generation import generate
from chronos_moe.store.predictors import PredictorName
from configs.errors import ModelError, NotEnoughMemory
from configs.load import build_config
from exports.pack_experts import pack_experts
from exports.streamed import Streamed, streamed_model
from exports.unpacked import torch_model
from runtime.random_model import random_b158

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning"),
]
PROMPT = [1, 5, 9, 14, 3, 8]
BLOCK_BYTES = 8192


def packed(folder: Path, **moe: Any) -> Path:
    """The whole model in `folder/whole`, and with experts on disk in `folder/packed`."""
    raw = {"preset": "micro", "backbone": {"moe": {"enabled": True, "n_routed_experts": 8, **moe}}}
    whole = folder / "whole" / "model.b158"
    whole.parent.mkdir()
    random_b158(build_config(raw, source="a test"), whole, seed=7)
    pack_experts(whole, folder / "packed")
    return whole


def opened(
    folder: Path, device_slots: int, memory_slots: int, *, predictor: PredictorName = "same"
) -> AbstractContextManager[Streamed]:
    return streamed_model(
        folder / "packed",
        device_bytes=device_slots * BLOCK_BYTES,
        memory_bytes=memory_slots * BLOCK_BYTES,
        predictor=predictor,
    )


@pytest.mark.parametrize("route_ahead", [0, 2])
@pytest.mark.parametrize("predictor", ["none", "same", "frequency"])
def test_all_is_as_with_a_resident_model(tmp_path: Path, predictor: PredictorName, route_ahead: int):
    whole = packed(tmp_path, layers=[1, 2, 3], route_ahead=route_ahead)
    resident = torch_model(whole).cuda()
    expected = list(generate(resident, PROMPT, max_new_tokens=40))
    ids = torch.tensor([PROMPT * 4], device="cuda")
    with torch.no_grad():
        hidden = resident(ids).hidden_BTD
    for device_slots, memory_slots in ((2, 2), (3, 12), (24, 24)):
        with opened(tmp_path, device_slots, memory_slots, predictor=predictor) as streamed:
            with torch.no_grad():
                found = streamed.model(ids).hidden_BTD
            torch.testing.assert_close(found, hidden, rtol=1e-4, atol=1e-4)
            assert list(generate(streamed.model, PROMPT, max_new_tokens=40)) == expected
            assert streamed.tier.num_copies > 0


def test_no_step_waits_for_the_whole_device(tmp_path: Path):
    packed(tmp_path, layers=[1, 2, 3], route_ahead=1)
    with opened(tmp_path, 12, 12) as streamed, torch.no_grad():
        model = streamed.model
        state = model(torch.tensor([PROMPT], device="cuda")).state
        ids = torch.tensor([[4]], device="cuda")
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(20):
                state = model(ids, state=state).state
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_too_little_memory_and_whole_files_are_refused(tmp_path: Path):
    whole = packed(tmp_path, layers=[1, 2])
    whole_file = pytest.raises(ModelError, match="no experts on disk")
    with whole_file, streamed_model(whole, device_bytes=2**20, memory_bytes=2**20):
        raise AssertionError("it was opened")
    for device_slots, memory_slots in ((1, 12), (12, 1)):
        with pytest.raises(NotEnoughMemory), opened(tmp_path, device_slots, memory_slots):
            raise AssertionError("it was opened")
