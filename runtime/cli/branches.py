"""The tree of a talk: branches that were forked from each other, each where it was left."""

from dataclasses import dataclass

from configs.errors import UsageError
from runtime.cli.tables import plain, size
from runtime.session import Session, Talk

FIRST = "talk"
MOST_BYTES = 2**30
"""Memory for branches that wait; each costs a state."""
SHOWN = 48


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """A talk that waits, or None where it is the one that goes on."""

    parent: str | None
    forked_at: int
    talk: Talk | None


class Branches:
    """Branches by name, in the order in which they were made."""

    def __init__(self, session: Session, *, most_bytes: int = MOST_BYTES) -> None:
        self._session, self._most_bytes = session, most_bytes
        self.current = FIRST
        self._branches = {FIRST: Branch(parent=None, forked_at=0, talk=None)}

    def fork(self, name: str) -> str:
        """Leave the talk where it is, and go on in a branch of its own; gives the branch's name."""
        name = name or self._new_name()
        if name in self._branches:
            raise UsageError(f"there is a branch {name!r} already", hint=f"Go there: /tree {name}")
        self._check_room()
        position = self._session.position
        self._leave()
        self._branches[name] = Branch(parent=self.current, forked_at=position, talk=None)
        self.current = name
        return name

    def go(self, name: str) -> None:
        """Go on with another branch."""
        if name not in self._branches:
            raise UsageError(
                f"there is no branch {name!r}", hint=f"There are: {', '.join(map(repr, self._branches))}"
            )
        if name == self.current:
            return
        talk = self._branches[name].talk
        assert talk is not None, "all but the current one wait"
        self._check_room(sparing=talk)
        self._leave()
        self._session.resume(talk)
        there = self._branches[name]
        self._branches[name] = Branch(parent=there.parent, forked_at=there.forked_at, talk=None)
        self.current = name

    def drawn(self) -> list[str]:
        """The tree, a line a branch."""
        lines: list[str] = []

        def draw(name: str, depth: int) -> None:
            branch = self._branches[name]
            position = self._session.position if branch.talk is None else branch.talk.snapshot.position
            turns = self._session.turns if branch.talk is None else branch.talk.turns
            held = "" if branch.talk is None else f", {size(branch.talk.snapshot.num_bytes)}"
            mark = "*" if name == self.current else " "
            said = f"  {_short(turns[-1].message)}" if turns else ""
            origin = f", from {branch.forked_at:,}" if branch.parent else ""
            lines.append(f"{mark} {'  ' * depth}{plain(name)}: {position:,} tokens{origin}{held}{said}")
            for other, child in self._branches.items():
                if child.parent == name:
                    draw(other, depth + 1)

        draw(FIRST, 0)
        return lines

    def _leave(self) -> None:
        here = self._branches[self.current]
        self._branches[self.current] = Branch(
            parent=here.parent, forked_at=here.forked_at, talk=self._session.talk()
        )

    def _check_room(self, *, sparing: Talk | None = None) -> None:
        waiting = (branch.talk for branch in self._branches.values())
        held = sum(talk.snapshot.num_bytes for talk in waiting if talk is not None and talk is not sparing)
        if held + self._session.state_bytes > self._most_bytes:
            raise UsageError(
                f"branches hold {size(held)}, one more takes {size(self._session.state_bytes)}, and "
                f"{size(self._most_bytes)} are allowed",
                hint="Write the talk to a file instead: /save FILE",
            )

    def _new_name(self) -> str:
        number = len(self._branches)
        while f"{number}" in self._branches:
            number += 1
        return f"{number}"


def _short(message: str) -> str:
    text = plain(" ".join(message.split()))
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
