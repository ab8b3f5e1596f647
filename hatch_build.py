"""Compiles the kernels when the package is built, so that nobody waits for it who installs.

A wheel holds the objects for every target, an editable install those for this machine. CHIMERA_KERNELS says
otherwise: all, host or none. Without objects everything works too, and kernels are compiled at first use.
"""

import os
import subprocess
import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CHOICES = {"all": ["--all"], "host": [], "none": None}


class KernelHook(BuildHookInterface):
    """Runs `python -m quant.ahead.make` and puts what it made into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        usual = "host" if version == "editable" else "all"
        asked = os.environ.get("CHIMERA_KERNELS") or usual
        if asked not in CHOICES:
            raise SystemExit(f"CHIMERA_KERNELS={asked} is not known; it can be {', '.join(CHOICES)}")
        options = CHOICES[asked]
        if options is None or not sys.platform.startswith("linux"):
            return  # the objects are for Linux, and are made there
        command = [sys.executable, "-m", "quant.ahead.make", *options]
        # What this build may import, pip has put on the path of this process.
        path = os.pathsep.join([self.root, *filter(None, sys.path)])
        subprocess.run(command, cwd=self.root, env={**os.environ, "PYTHONPATH": path}, check=True)
        build_data["artifacts"].append("/quant/ahead/objects/*.objects")
