"""Every test of the mixers runs on the CPU, and on a GPU where one is asked for."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Where tensors are made unless told otherwise."""
    place = torch.device(request.param)
    if place.type == "cpu":
        yield place
        return
    with place:
        yield place
