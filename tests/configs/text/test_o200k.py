"""o200k: its ids, and equality with tiktoken."""

import hashlib

import pytest
from hypothesis import given, settings

from configs.errors import TokenizerError
from configs.text import o200k_backend
from configs.text.tokenizer import Tokenizer, open_tokenizer
from tests.configs.text.conftest import TEXTS, corpus


def test_ids(o200k: Tokenizer) -> None:
    assert o200k.vocab_size == 200_073
    assert (o200k.bos, o200k.eos, o200k.pad, o200k.unk) == (None, 199_999, 200_058, None)
    assert o200k.specials["<|endoftext|>"] == 199_999
    assert o200k.specials["<|pad|>"] == 200_058
    assert o200k.masked_ids == {199_998, *range(200_000, 200_018)}
    assert len(o200k.specials) == 200_073 - 199_998 - 19
    assert o200k.is_lossless
    assert o200k.encode("hello world") == [24912, 2375]


def test_digest_names_the_ranks_and_the_special_tokens(o200k: Tokenizer) -> None:
    assert o200k.digest == "f6ec2d636a24f072a354e3a2208545e3123004fe6d910f194c0e73894cfb44bd"
    assert open_tokenizer("o200k_base").digest == o200k.digest


def test_other_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(o200k_backend, "RANKS_SHA256", hashlib.sha256(b"other").hexdigest())
    with pytest.raises(TokenizerError, match=r"holds 200073 ids with ranks of digest 446a") as caught:
        open_tokenizer("o200k")
    assert "chimera-edge[o200k]" in caught.value.hint


@pytest.fixture(scope="module")
def oracle(o200k: Tokenizer):
    """tiktoken's own pattern and merging, over ranks whose digest is that of the file it would download."""
    import tiktoken
    import tiktoken_ext.openai_public as published

    ranks = {data: rank for rank, data in enumerate(o200k.token_bytes[: o200k_backend.NUM_RANKS])}
    with pytest.MonkeyPatch.context() as patch:
        seen: list[str] = []

        def load(_: str, expected_hash: str) -> dict[bytes | None, int]:
            seen.append(expected_hash)
            return ranks

        patch.setattr(published, "load_tiktoken_bpe", load)
        described = published.o200k_base()
        assert seen == [o200k_backend.RANKS_SHA256]
    return tiktoken.Encoding(**described)


@pytest.mark.oracle
@given(text=TEXTS)
@settings(max_examples=200)
def test_equals_tiktoken_on_any_text(oracle, o200k: Tokenizer, text: str) -> None:
    assert o200k.encode(text) == oracle.encode_ordinary(text)


@pytest.mark.oracle
def test_equals_tiktoken_on_source_text(oracle, o200k: Tokenizer) -> None:
    for text in corpus():
        assert o200k.encode(text) == oracle.encode_ordinary(text)
    assert oracle.eot_token == o200k.eos
