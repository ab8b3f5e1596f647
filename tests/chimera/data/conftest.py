"""One tokenizer for all."""

import pytest

from configs.text.tokenizer import Tokenizer
from tests.chimera.data.samples import learnt_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return learnt_tokenizer(tmp_path_factory.mktemp("words") / "tokenizer.model")
