"""A build of token shards that tells how far it is, to be killed: `python -m … TOKENIZER DATA FOLDER`."""

import sys
from pathlib import Path

from chimera.data.shards import build_shards
from chimera.data.sources import sources_of
from configs.text.tokenizer import open_tokenizer


def main(tokenizer: str, data: str, folder: str) -> None:
    """Build, and say when some documents are written; then wait to be killed."""

    def progress(source: str, tokens: int) -> None:
        print(source, tokens, flush=True)
        sys.stdin.readline()

    build_shards(sources_of([data]), open_tokenizer(tokenizer), Path(folder), progress=progress)


if __name__ == "__main__":
    main(*sys.argv[1:])
