"""Try the base install from a wheel on every supported Python that this machine has.

Each gets a fresh environment, the wheel with the pinned dependencies, and one real command from a folder that
is not the checkout. PyTorch must not come along.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.11", "3.12", "3.13")


def main() -> int:
    """Check every Python found; fail when one fails, or when none is found."""
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, str(ROOT)]
        # Objects for other machines take minutes, and nothing here could run them.
        settings = {"CHIMERA_KERNELS": "host", **os.environ}
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL, env=settings)
        (wheel,) = Path(folder).glob("*.whl")
        checked = 0
        for version in VERSIONS:
            python = find_python(version)
            if python is None:
                print(f"Python {version}: not on this machine")
                continue
            check_install(python, wheel=wheel, folder=Path(folder) / f"with-{version}")
            print(f"Python {version}: base install works ({python})")
            checked += 1
    return 0 if checked else 1


def find_python(version: str) -> str | None:
    """An interpreter of that version: this one, one on the path, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [sys.executable, f"python{version}", *pyenv.glob(f"versions/{version}.*/bin/python")]
    question = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    for candidate in map(str, candidates):
        try:
            answer = subprocess.run([candidate, "-c", question], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            continue
        if answer.stdout.strip() == version:
            return candidate
    return None


def check_install(python: str, *, wheel: Path, folder: Path) -> None:
    """Install the wheel into a fresh environment and use it as a user would."""
    folder.mkdir()
    environment = folder / "environment"
    subprocess.run([python, "-m", "venv", environment], check=True)
    inside = environment / "bin" / "python"
    install = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--constraint", ROOT / "constraints.txt", wheel], check=True)
    subprocess.run([inside, "-m", "pip", "check"], check=True, stdout=subprocess.DEVNULL)
    no_torch = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"
    subprocess.run([inside, "-c", no_torch], check=True, cwd=folder)
    answers_at_once(environment, folder=folder)
    command = [environment / "bin" / "chimera", "inspect", "demo", "--json"]
    answer = subprocess.run(command, check=True, cwd=folder, stdout=subprocess.PIPE, text=True)
    json.loads(answer.stdout)


def answers_at_once(environment: Path, *, folder: Path) -> None:
    """The shipped model answers, and nothing is compiled for it: the wheel holds the kernels."""
    cache = folder / "cache"
    settings = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    command = [environment / "bin" / "chimera-run", "Hi", "--seed", "1", "-n", "4"]
    subprocess.run(command, check=True, cwd=folder, env=settings, stdout=subprocess.DEVNULL)
    compiled = sorted(path.name for path in (cache / "chimera" / "kernels").rglob("*.bin"))
    if compiled:
        raise SystemExit(f"the wheel lacks objects for this machine; compiled: {', '.join(compiled)}")


if __name__ == "__main__":
    sys.exit(main())
