"""o200k: the 200,073 ids of o200k_base and its named tokens, from splintr, which carries them offline."""

import base64
import hashlib
from types import MappingProxyType

from configs.errors import MissingExtra, TokenizerError
from configs.text.tokenizer import Tokenizer

VOCAB_SIZE = 200_073
NUM_RANKS = 199_998
RANKS_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
END_OF_TEXT, PAD = "<|endoftext|>", "<|pad|>"
END_OF_TEXT_ID, PAD_ID = 199_999, 200_058


def load_o200k() -> Tokenizer:
    """The o200k tokenizer, after a check that its ranks are the published ones.

    Its ids are the ranks, then the special tokens, with 19 ids between them that stand for nothing. The
    digest covers the ranks and the names: a package that names its tokens otherwise counts as another
    tokenizer.
    """
    try:
        import splintr
    except ImportError:
        raise MissingExtra(package="splintr-rs", extra="o200k", purpose="the o200k tokenizer") from None
    model = splintr.Tokenizer.from_pretrained("o200k_base")
    ranks = [model.decode_token_bytes(rank) for rank in range(NUM_RANKS)]
    specials = dict(sorted(model.special_tokens().items(), key=lambda item: item[1]))
    # The published file: a line for each rank, its bytes in base64 and the rank.
    lines = b"".join(base64.b64encode(data) + b" %d\n" % rank for rank, data in enumerate(ranks))
    digest = hashlib.sha256(lines)
    is_known = (
        digest.hexdigest() == RANKS_SHA256
        and model.vocab_size == VOCAB_SIZE
        and specials.get(END_OF_TEXT) == END_OF_TEXT_ID
        and specials.get(PAD) == PAD_ID
    )
    if not is_known:
        raise TokenizerError(
            f"o200k: splintr-rs {splintr.__version__} holds {model.vocab_size} ids with ranks of digest "
            f"{digest.hexdigest()[:12]}…; expected {VOCAB_SIZE} and {RANKS_SHA256[:12]}…",
            hint='Install a version that this release was tested with: pip install "chimera-edge[o200k]"',
        )
    digest.update("".join(f"{token} {name}\n" for name, token in specials.items()).encode())
    named = set(specials.values())
    return Tokenizer(
        kind="o200k",
        source="o200k",
        digest=digest.hexdigest(),
        token_bytes=(*ranks, *(b"" if token in named else None for token in range(NUM_RANKS, VOCAB_SIZE))),
        specials=MappingProxyType(specials),
        bos=None,
        eos=END_OF_TEXT_ID,
        pad=PAD_ID,
        unk=None,
        lossy_because="",
        adds_leading_space=False,
        encoder=model.encode_ordinary,
    )
