"""What a chat template adds for the next message, so that a stream only ever reads on.

The template writes the last turn and the new message; what it adds to the last turn alone is read. What was
said before is never written again: the stream holds it as it was said, token for token, and a long talk costs
no more than a short one.
"""

from collections.abc import Mapping, Sequence

from configs.errors import TokenizerError
from configs.text.template import ChatTemplate, Rendered
from configs.text.tokenizer import Piece, Special, Tokenizer

Message = Mapping[str, str]


def opening(template: ChatTemplate, messages: Sequence[Message]) -> tuple[Piece, ...]:
    """All messages, up to where the next reply begins."""
    return template.render(messages, add_generation_prompt=True).pieces


def begun(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """The ids of a text with the token that begins one before them, if there is such a token."""
    begin = tokenizer.eos if tokenizer.bos is None else tokenizer.bos
    return [*ids] if begin is None or [*ids[:1]] == [begin] else [begin, *ids]


def end_ids(tokenizer: Tokenizer, template: ChatTemplate | None) -> frozenset[int]:
    """The tokens at which an answer ends: the end of a text, and what the template puts round messages.

    A reply that goes on with the name of a speaker has begun another's message.
    """
    probe = [
        {"role": role, "content": content}
        for role, content in (("user", "a"), ("assistant", "b"), ("user", "c"))
    ]
    pieces = () if template is None else opening(template, probe)
    names = {piece.name for piece in pieces if isinstance(piece, Special)}
    eos = () if tokenizer.eos is None else (tokenizer.eos,)
    return frozenset((*eos, *(tokenizer.special_id(name) for name in names)))


def continuation(
    template: ChatTemplate, said: Sequence[Message], message: Message
) -> tuple[Piece, ...] | None:
    """What follows the text of the last reply in `said`: its end, and the message up to the next reply.

    None where this template does not write a talk as the talk before and something more.
    """
    try:
        before = template.render(said, find_replies=True)
    except TokenizerError:  # it is not known where the reply ends
        return None
    added = _added(before, template.render([*said, message], add_generation_prompt=True))
    if added is None or not before.replies:
        return None
    reply = before.replies[-1]
    end = before.pieces[reply.start : reply.stop][-1:]
    closing = tuple(piece for piece in end if isinstance(piece, Special))
    return _joined(closing + before.pieces[reply.stop :] + added)


def _added(before: Rendered, after: Rendered) -> tuple[Piece, ...] | None:
    """The pieces of `after` beyond those of `before`; the last text may go on."""
    old, new = before.pieces, after.pieces
    if not old or len(new) < len(old) or new[: len(old) - 1] != old[:-1]:
        return None
    last, grown = old[-1], new[len(old) - 1]
    if last == grown:
        return new[len(old) :]
    if isinstance(last, str) and isinstance(grown, str) and grown.startswith(last):
        return (grown[len(last) :], *new[len(old) :])
    return None


def _joined(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """The same pieces, with texts that follow each other in one: a text is encoded as a whole."""
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return tuple(joined)
