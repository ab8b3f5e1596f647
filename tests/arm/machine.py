"""A 64-bit ARM machine with Python, emulated by QEMU: made once in .cache/arm of Debian packages and wheels.

`python -m tests.arm.machine` makes it, or says what is missing. Nothing is installed in the system, and no
right of the administrator is needed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ChimeraError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".cache" / "arm"
SYSTEM, SITE, EMULATOR = FOLDER / "system", FOLDER / "site", FOLDER / "emulator"

PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
"""What Python and the wheels stand on; apt adds what these need."""
PLATFORMS = tuple(f"manylinux_2_{version}_aarch64" for version in (28, 27, 17))

# What such a machine says of itself, from which LLVM knows it. The emulator would show this machine's own.
_CPUINFO = """processor\t: 0
BogoMIPS\t: 200.00
Features\t: {flags}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3

"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Processor:
    """A CPU that the emulator plays."""

    name: str
    """As the emulator and LLVM call it."""
    part: str
    flags: str


NEOVERSE_N1 = Processor(
    name="neoverse-n1",
    part="0xd0c",
    flags="fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc asimddp",
)
CORTEX_A72 = Processor(name="cortex-a72", part="0xd08", flags="fp asimd evtstrm crc32 cpuid")
PROCESSORS = {processor.name: processor for processor in (NEOVERSE_N1, CORTEX_A72)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """An emulated machine whose Python sees this checkout and the wheels."""

    processor: Processor
    emulator: Path
    python: Path

    def command(self, *arguments: str) -> list[str]:
        """What runs Python with these arguments."""
        libraries = ":".join(str(SYSTEM / place / "aarch64-linux-gnu") for place in ("lib", "usr/lib"))
        cache = FOLDER / "home" / self.processor.name
        settings = {
            "LD_LIBRARY_PATH": libraries,
            "PYTHONHOME": str(SYSTEM / "usr"),
            "PYTHONPATH": f"{SITE}:{ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_CACHE_HOME": str(cache),
        }
        spelled = [part for name, value in settings.items() for part in ("-E", f"{name}={value}")]
        prefix = ["-cpu", self.processor.name, "-L", str(self.prefix)]
        return [str(self.emulator), *prefix, *spelled, str(self.python), *arguments]

    @property
    def prefix(self) -> Path:
        """Where the emulator looks for a file before it looks in this machine's own system."""
        return FOLDER / "processors" / self.processor.name

    def run(self, *arguments: str, environment: dict[str, str] | None = None) -> str:
        """What Python prints; a failure shows what it said."""
        kept = ("NUMBA_", "CHIMERA_", "PYTHON", "LD_")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(kept)}
        done = subprocess.run(
            self.command(*arguments),
            env=clean | (environment or {}),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(arguments)} on {self.processor.name}:\n{done.stderr}"
        return done.stdout


def machine(processor: Processor) -> Machine:
    """The emulated machine, made now where it is not there."""
    emulator = make_emulator()
    _make_once(SYSTEM, "\n".join(PACKAGES), _fill_system)
    python = _python()
    _make_once(SITE, "\n".join([python.name, *dependencies(), _pinned()]), _fill_site)
    made = Machine(processor=processor, emulator=emulator, python=python)
    (made.prefix / "proc").mkdir(parents=True, exist_ok=True)
    (made.prefix / "proc" / "cpuinfo").write_text(_CPUINFO.format(flags=processor.flags, part=processor.part))
    for name in ("lib", "usr"):
        link = made.prefix / name
        if not link.is_symlink():
            link.symlink_to(SYSTEM / name)
    return made


def make_emulator() -> Path:
    """QEMU for programs of one user: this system's, or one out of its package, unpacked here."""
    for name in ("qemu-aarch64-static", "qemu-aarch64"):
        found = shutil.which(name)
        if found:
            return Path(found)
    _make_once(EMULATOR, "qemu-user-static", _fill_emulator)
    return EMULATOR / "usr" / "bin" / "qemu-aarch64-static"


def dependencies() -> list[str]:
    """What the base install asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return list(project["dependencies"])


def _pinned() -> str:
    return hashlib.sha256((ROOT / "constraints.txt").read_bytes()).hexdigest()


def _python() -> Path:
    """Debian's, of the version that its release has."""
    found = sorted((SYSTEM / "usr" / "bin").glob("python3.[0-9][0-9]"))
    if not found:
        raise ChimeraError(
            f"{SYSTEM} holds no Python of a version that we know", hint=f"Remove {FOLDER} and try again."
        )
    return found[-1]


def _fill_system(folder: Path) -> None:
    work = _fresh(FOLDER / "download")
    for package in _download(PACKAGES, work):
        _call("dpkg-deb", "-x", str(package), str(folder))
    shutil.rmtree(work)
    # Where the base system has merged its folders, its own package makes this link, which is not needed else.
    if not (folder / "lib").exists():
        (folder / "lib").symlink_to("usr/lib")


def _fill_emulator(folder: Path) -> None:
    _need("apt-get", "dpkg-deb")
    work = _fresh(FOLDER / "download")
    _call("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", "qemu-user-static", cwd=work)
    for package in work.glob("*.deb"):
        _call("dpkg-deb", "-x", str(package), str(folder))
    shutil.rmtree(work)
    for other in (folder / "usr" / "bin").iterdir():
        if other.name != "qemu-aarch64-static":
            other.unlink()


def _fill_site(folder: Path) -> None:
    wheels = _fresh(FOLDER / "wheels")
    version = _python().name.removeprefix("python")
    platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
    _call(
        sys.executable,
        *("-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"),
        *("--python-version", version, *platforms, "--constraint", str(ROOT / "constraints.txt")),
        *("--dest", str(wheels), *dependencies()),
    )
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    shutil.rmtree(wheels)


def _download(packages: tuple[str, ...], work: Path) -> list[Path]:
    """Packages of the other architecture and all that they need, by an apt that knows none installed."""
    _need("apt-get", "dpkg-deb")
    for place in ("state/lists/partial", "cache/archives/partial"):
        (work / place).mkdir(parents=True)
    (work / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
        "Debug::NoLocking": "true",
        "Dir::State": str(work / "state"),
        "Dir::State::status": str(work / "status"),
        "Dir::Cache": str(work / "cache"),
        # A hook of the system may clear what was fetched, as images of containers do.
        "APT::Keep-Downloaded-Packages": "true",
        "DPkg::Post-Invoke": "",
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    _call("apt-get", *options, "-qq", "update")
    _call("apt-get", *options, "-qq", "--yes", "--download-only", "install", *packages)
    return sorted((work / "cache" / "archives").glob("*.deb"))


def _make_once(folder: Path, recipe: str, fill: Callable[[Path], None]) -> None:
    """Fill a folder by a recipe, whole or not at all; one that was filled by the same recipe is kept."""
    stamp = folder.with_name(f"{folder.name}.made")
    if folder.is_dir() and stamp.is_file() and stamp.read_text() == recipe:
        return
    print(f"Making {folder.relative_to(ROOT)}, once", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    fresh = _fresh(folder.with_name(f"{folder.name}.new"))
    fill(fresh)
    fresh.rename(folder)
    stamp.write_text(recipe)


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _need(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise ChimeraError(
            f"this needs {' and '.join(missing)}, as Debian and its kin have",
            hint="Run it on Debian, or in a container of it: docker run -it debian:12. There: "
            "apt-get install make python3-venv qemu-user-static",
        )


def _call(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ChimeraError(
            f"{' '.join(command[:1])} failed with {done.returncode}: {(done.stderr or done.stdout).strip()}",
            hint="The lists of packages may be old: apt-get update, as root.",
        )


if __name__ == "__main__":
    try:
        for processor in PROCESSORS.values():
            print(machine(processor).run("-c", "import platform; print(*platform.uname()[-2:])").strip())
    except ChimeraError as error:
        sys.exit(f"error: {error}")
