"""Stop strings: text comes in pieces of any size, and goes out up to where a stop string begins.

What could be the beginning of one is held back until it is known. The stop string that is complete first ends
the text; of two that end together, the longer. So the pieces that a text comes in change nothing.
"""

from collections.abc import Sequence

from configs.errors import UsageError

MOST_STOPS = 64
LONGEST_STOP = 1000


class StopFilter:
    """Lets text through as far as no stop string can begin in it."""

    def __init__(self, stops: Sequence[str]) -> None:
        if len(stops) > MOST_STOPS:
            raise UsageError(f"{len(stops)} stop strings; at most {MOST_STOPS} are allowed")
        for stop in stops:
            if not 0 < len(stop) <= LONGEST_STOP:
                raise UsageError(
                    f"a stop string of {len(stop)} characters; 1 … {LONGEST_STOP} are allowed",
                    hint="" if stop else "Leave it out, and the text ends where the model ends it.",
                )
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None
        """The stop string that was met; nothing goes through after it."""

    def feed(self, text: str) -> str:
        """What may go out once this text has come as well."""
        if self.found is not None:
            return ""
        whole = self._held + text
        met = [(at + len(stop), at, stop) for stop in self._stops if (at := whole.find(stop)) >= 0]
        if met:
            _, at, self.found = min(met)
            self._held = ""
            return whole[:at]
        keep = max((_begun(whole, stop) for stop in self._stops), default=0)
        self._held = whole[len(whole) - keep :]
        return whole[: len(whole) - keep]

    def flush(self) -> str:
        """What is still held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of a text are the beginning of a stop string."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
