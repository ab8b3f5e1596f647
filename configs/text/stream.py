"""Text out of ids, one at a time: what is complete goes out at once, half a code point waits for the rest."""

import codecs
from collections.abc import Iterable

from configs.text.tokenizer import Tokenizer


class StreamDecoder:
    """Decodes ids as they come. All that `feed` and `flush` give, joined, is the decoded whole.

    `continuing`: text went before, so a leading space is kept. `pending`: bytes that an earlier decoder held
    back, so that a stream can be saved between two halves of a code point.
    """

    def __init__(self, tokenizer: Tokenizer, *, continuing: bool = False, pending: bytes = b"") -> None:
        self._tokenizer = tokenizer
        self._space_to_drop = tokenizer.adds_leading_space and not continuing
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._utf8.setstate((pending, 0))

    @property
    def pending(self) -> bytes:
        """The bytes of a code point that is not complete yet; at most three."""
        return self._utf8.getstate()[0]

    def feed(self, ids: int | Iterable[int]) -> str:
        """The text that these ids complete; empty while a code point is split."""
        tokens = (ids,) if isinstance(ids, int) else ids
        data = b"".join(map(self._tokenizer.text_bytes, tokens))
        if self._space_to_drop and data:
            self._space_to_drop = False
            data = data.removeprefix(b" ")
        return self._utf8.decode(data)

    def flush(self) -> str:
        """The end of the text: what is still held back becomes U+FFFD."""
        return self._utf8.decode(b"", final=True)
