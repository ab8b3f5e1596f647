"""What a run tells its progress to, on a machine that has PyTorch and little else."""

import pytest

from chimera.train.telling import Silent
from tests.chimera.train.processes import python
from tests.chimera.train.test_display import reading

NEEDS_A_TERMINAL = "import sys; import {module}; print(sorted({{'rich', 'psutil'}} & set(sys.modules)))"


def test_silence_is_silent(capfd: pytest.CaptureFixture[str]):
    with Silent() as display:
        display.say("something")
        display.update(reading())
    assert capfd.readouterr() == ("", "")


def test_a_run_needs_no_library_for_terminals():
    assert python("-c", NEEDS_A_TERMINAL.format(module="chimera.train.loop")) == "[]\n"
