"""Devices and threads, as far as a machine without a GPU can tell."""

import subprocess
import sys

import pytest
import torch

from chimera.train.machine import bfloat16_pays, device_of, physical_cores, set_threads
from configs.errors import UsageError

FRESH = """
import torch
from chimera.train.machine import set_threads
set_threads(1)
print(torch.get_num_threads(), torch.get_num_interop_threads())
"""


def test_without_a_name_the_device_is_one_that_is_there():
    assert device_of(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device_of("cpu") == torch.device("cpu")


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2})
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 8)
    assert physical_cores() == 3
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 2)
    assert physical_cores() == 2
    # Some containers do not say how many cores there are.
    monkeypatch.setattr("psutil.cpu_count", lambda logical: None)
    assert physical_cores() == 1


def test_a_fresh_process_runs_operators_one_after_another():
    result = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True)
    assert result.stdout == "1 1\n"


def test_threads_can_be_set_in_a_process_that_has_begun():
    before = torch.get_num_threads()
    try:
        set_threads(2)
        assert torch.get_num_threads() == 2
        set_threads(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    with pytest.raises(UsageError, match="0 threads"):
        set_threads(0)


def test_bfloat16_is_known_of_this_cpu():
    assert bfloat16_pays(torch.device("cpu")) in (True, False)
