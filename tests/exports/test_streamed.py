"""Experts for a GPU where there is none."""

from pathlib import Path

import pytest

from configs.errors import UsageError
from exports.streamed import streamed_model


def test_a_machine_without_such_a_device_is_told_what_to_do(tmp_path: Path):
    refused = pytest.raises(UsageError, match="CUDA devices alone, and cpu is none")
    with refused, streamed_model(tmp_path, device="cpu", device_bytes=2**20, memory_bytes=2**20):
        raise AssertionError("it was opened")
