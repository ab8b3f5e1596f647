"""Conversations as ids by a chat template, fast for the many records that are one prompt and one answer."""

from collections.abc import Sequence

from configs.text.template import DEFAULT_TEMPLATE, ChatTemplate, Message, Rendered
from configs.text.tokenizer import Piece, Tokenizer

_PROMPT, _ANSWER = "prompt", "answer"


class Conversations:
    """A template and a tokenizer."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self._template = template
        self._tokenizer = tokenizer
        # Our own template puts every message between its marks as it is, so that its frame is found once: a
        # rendering takes half a millisecond. Another template may look at what a message says.
        is_plain = template.source == DEFAULT_TEMPLATE
        self._frame = self._rendered(_PROMPT, _ANSWER) if is_plain else None

    def encode(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """The ids of a conversation, and for each whether it belongs to a reply."""
        return self._template.render(messages, find_replies=True).encode(self._tokenizer)

    def encode_answer(self, prompt: str, answer: str) -> tuple[list[int], list[bool]]:
        """The ids of a conversation of one prompt and one answer, and which are the answer's."""
        if self._frame is None or not prompt or not answer:
            return self._rendered(prompt, answer).encode(self._tokenizer)
        texts: dict[Piece, str] = {_PROMPT: prompt, _ANSWER: answer}
        pieces = tuple(texts.get(piece, piece) for piece in self._frame.pieces)
        return Rendered(pieces=pieces, replies=self._frame.replies).encode(self._tokenizer)

    def _rendered(self, prompt: str, answer: str) -> Rendered:
        messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
        return self._template.render(messages, find_replies=True)
