"""The transcripts of the pages: what a command prints, kept word for word.

A transcript is a fenced block after a marker `<!-- transcript: VERB ARGUMENTS -->`. A test compares each with
what the command prints; run this module to write them anew.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.house.files import ROOT

README = ROOT / "README.md"
PAGES = (README, ROOT / "docs" / "running.md")
TRANSCRIPT = re.compile(
    r"(?P<marker><!-- transcript: (?P<command>.+?) -->\n)```console\n(?P<shown>.*?)```\n", re.DOTALL
)


def transcripts(page: str) -> list[tuple[str, str]]:
    """Every command with a transcript on the page, and the transcript."""
    return [(found["command"], found["shown"]) for found in TRANSCRIPT.finditer(page)]


def record(command: str) -> str:
    """The transcript that the command gives now, its output piped."""
    result = subprocess.run(
        [sys.executable, "-m", "runtime.cli.main", *shlex.split(command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return f"$ chimera {command}\n{result.stdout}"


def rewrite(page: Path) -> None:
    """Write every transcript of a page anew."""
    text = page.read_text()
    page.write_text(
        TRANSCRIPT.sub(lambda found: f"{found['marker']}```console\n{record(found['command'])}```\n", text)
    )


if __name__ == "__main__":
    for page in PAGES:
        rewrite(page)
