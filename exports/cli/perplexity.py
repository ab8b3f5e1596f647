"""`chimera perplexity`: how well a model foresees text, in bits per byte, by source."""

import argparse
import json
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import EXIT_DONE, TokenizerError, UsageError
from runtime.cli.experts_options import add_experts_arguments, experts_from
from runtime.cli.run import add_adapter_argument

if TYPE_CHECKING:
    from configs.schema.model import ModelConfig
    from configs.text.template import ChatTemplate
    from configs.text.tokenizer import Tokenizer
    from runtime.measuring.perplexity import Scorer

DEFAULT_WINDOW = 1024
COLUMNS = ("source", "documents", "tokens", "bytes", "bits/byte", "nats/token")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Subject:
    """What is measured, whatever computes it."""

    scorer: "Scorer"
    computed_by: str
    config: "ModelConfig"
    tokenizer: "Tokenizer"
    template: "Callable[[], ChatTemplate]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the text, and how it is read."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        type=Path,
        help="a packed .b158 file or its folder, which the engine computes; or a folder with config.json and "
        "model.safetensors, or that of a training run, which PyTorch computes",
    )
    parser.add_argument(
        "--data",
        metavar="PATH",
        type=Path,
        nargs="+",
        required=True,
        help=".jsonl or .txt files, also as .zst, or folders of them; sources are "
        "told apart by file and by the records' kind",
    )
    add_adapter_argument(parser.add_argument)
    parser.add_argument(
        "--seq-len",
        metavar="N",
        type=int,
        default=DEFAULT_WINDOW,
        help=f"tokens computed at once (default {DEFAULT_WINDOW}); it bounds memory, and a longer document "
        "goes on from the state of its last window",
    )
    parser.add_argument(
        "--documents", metavar="N", type=int, help="score the first N documents of each file alone"
    )
    parser.add_argument("--rounds", metavar="N", type=int, help="rounds of the loop (default: the config's)")
    parser.add_argument(
        "--exit-threshold",
        metavar="X",
        type=float,
        help="the change below which a token leaves the loop; 0 is never (default: the config's)",
    )
    parser.add_argument(
        "--threads",
        metavar="N",
        type=int,
        help="threads to compute with",
    )
    parser.add_argument(
        "--chat",
        action="store_true",
        help="read prompts and conversations by the model's chat template and count the replies alone",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="FILE",
        help="a SentencePiece .model, a tokenizer.json or the name o200k (default: the model's own)",
    )
    add_experts_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table, or the same as JSON."""
    from runtime.measuring.exit import check_exit_threshold, exit_threshold_of
    from runtime.measuring.perplexity import measure, read_documents, report

    for name in ("seq_len", "documents", "rounds", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} {value}: a whole number from 1 is needed")
    check_exit_threshold(args.exit_threshold)
    if args.adapter and not _is_packed(args.model):
        raise UsageError(
            f"--adapter is for packed models, and {args.model} is none",
            hint="Pack it first: chimera export b158",
        )
    with (_packed if _is_packed(args.model) else _checkpoint)(args) as subject:
        chat = subject.template() if args.chat else None
        documents = read_documents(args.data, subject.tokenizer, chat=chat, most=args.documents)
        with _bar() as progress:
            tallies = measure(subject.scorer, documents, seq_len=args.seq_len, progress=progress)
    rows = report(tallies)
    if args.json:
        answer = {
            "model": str(args.model),
            "computed_by": subject.computed_by,
            "rounds": args.rounds or subject.config.rounds_default,
            "exit_threshold": exit_threshold_of(subject.config, args.exit_threshold),
            "tokenizer": subject.tokenizer.digest,
            "sources": rows,
        }
        # ASCII, so that any stream can carry it, whatever a source is called.
        json.dump(answer, sys.stdout, indent=2, allow_nan=False)
        print()
    else:
        _print_table(rows)
    return EXIT_DONE


def _is_packed(path: Path) -> bool:
    """Whether a path is a packed model; the folder of a checkpoint holds no packed file."""
    return path.suffix == ".b158" or (path.is_dir() and any(path.glob("*.b158")))


@contextmanager
def _packed(args: argparse.Namespace) -> Generator[_Subject]:
    from configs.text.tokenizer import open_tokenizer
    from runtime.cli.compiling import compiling_told
    from runtime.cli.wholeness import check_files
    from runtime.engine import Engine
    from runtime.measuring.engine_scorer import EngineScorer
    from runtime.model_folder import check_vocabulary, open_model

    model = open_model(args.model, adapters=args.adapter)
    tokenizer = model.tokenizer() if args.tokenizer is None else open_tokenizer(args.tokenizer)
    check_vocabulary(tokenizer, model.config)
    check_files(model)
    with (
        compiling_told(),
        Engine(model, num_threads=args.threads, experts=experts_from(args)) as engine,
    ):
        yield _Subject(
            scorer=EngineScorer(engine, rounds=args.rounds, exit_threshold=args.exit_threshold),
            computed_by="engine",
            config=model.config,
            tokenizer=tokenizer,
            template=lambda: model.template(tokenizer),
        )


@contextmanager
def _checkpoint(args: argparse.Namespace) -> Generator[_Subject]:
    from configs.text.template import ChatTemplate
    from configs.text.tokenizer import open_tokenizer
    from exports.checkpoint import words_folders
    from exports.perplexity import open_scorer, use_threads
    from exports.words import find_tokenizer
    from runtime.model_folder import TEMPLATE_NAME, check_vocabulary, read_template

    use_threads(args.threads)
    scorer = open_scorer(args.model, rounds=args.rounds, exit_threshold=args.exit_threshold)
    config = scorer.model.config
    folders = words_folders(args.model)
    source = args.tokenizer or find_tokenizer(config, *folders)
    if source is None:
        raise TokenizerError(
            f"{args.model}: no tokenizer in or beside it",
            hint="Name the one of its training: --tokenizer FILE.",
        )
    tokenizer = open_tokenizer(source)
    check_vocabulary(tokenizer, config)
    own = next((folder / TEMPLATE_NAME for folder in folders if (folder / TEMPLATE_NAME).is_file()), None)
    yield _Subject(
        scorer=scorer,
        computed_by="torch",
        config=config,
        tokenizer=tokenizer,
        template=lambda: (
            ChatTemplate.of_tokenizer(tokenizer) if own is None else read_template(own, tokenizer)
        ),
    )


def _bar() -> AbstractContextManager[Callable[[int], None] | None]:
    """What a person sees while it goes on; a pipe gets nothing."""
    if not sys.stderr.isatty():
        return nullcontext()
    from runtime.cli.progress import bytes_done

    return bytes_done("scored")


def _print_table(rows: list[dict[str, Any]]) -> None:
    lines = [COLUMNS] + [
        (
            _plain(row["source"]),
            f"{row['documents']:,}",
            f"{row['tokens']:,}",
            f"{row['bytes']:,}",
            f"{row['bits_per_byte']:.4f}",
            f"{row['nats_per_token']:.4f}",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *numbers in lines:
        cells = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
        print("  ".join([name.ljust(widths[0]), *cells]))


def _plain(source: str) -> str:
    """A name out of a data file, without characters that a terminal would obey."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in source)
