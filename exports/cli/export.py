"""`chimera export`: a trained model in another form: packed for our runtime, or to be trained further."""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:
    from exports.b158 import Exported


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The form, from where and to where, and what goes with the weights."""
    parser.add_argument(
        "form",
        metavar="FORM",
        choices=("b158", "pack"),
        help="b158: packed ternary weights, for chimera-run; pack: the weights of a run in bfloat16 and its "
        "place in the data, for `chimera train --pack` on another machine",
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=Path,
        help="a folder with config.json and model.safetensors, that of a training run, or a resume pack",
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        type=Path,
        help="the file to write, OUT.b158, or a folder in which it takes the name that the config says; "
        "config.json, tokenizer and chat template are put beside it",
    )
    parser.add_argument(
        "--embedding-bits",
        type=int,
        choices=(8, 4, 2),
        help="bits of a weight of embedding and head (default: those that the model was trained with)",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="FILE",
        help="a SentencePiece .model, a tokenizer.json or the name o200k (default: the checkpoint's own)",
    )
    parser.add_argument(
        "--template",
        metavar="FILE",
        type=Path,
        help="a chat template in jinja (default: the checkpoint's own, else the usual one)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the model and say what was written."""
    if args.form == "pack":
        return _pack(args)
    exported = _export(args)
    if args.json:
        json.dump(report(exported), sys.stdout, indent=2, allow_nan=False)
        print()
        return EXIT_DONE
    shown = report(exported)
    print(f"{shown['weights']}: {shown['file_bytes']:,} bytes, digest {shown['digest'][:16]}")
    if shown["step"] is not None:
        print(f"  step {shown['step']:,} of its training")
    print(f"  {shown['parameters']:,} parameters, embedding and head of {shown['embedding_bits']} bits")
    for name in shown["files"][1:]:
        print(f"  beside it {name}")
    if shown["tokenizer"] is None:
        print("  no tokenizer: --tokenizer FILE adds one, without which the model reads and writes no text")
    return EXIT_DONE


def _pack(args: argparse.Namespace) -> int:
    from chimera.train.pack_of_run import pack_of_run

    given = [name for name in ("embedding_bits", "tokenizer", "template") if getattr(args, name) is not None]
    if given:
        raise UsageError(
            f"--{given[0].replace('_', '-')} has no meaning for a resume pack", hint="Leave it out."
        )
    packed = pack_of_run(args.checkpoint, args.out)
    num_bytes = sum(path.stat().st_size for path in packed.files)
    if args.json:
        answer = {
            "files": [str(path) for path in packed.files],
            "file_bytes": num_bytes,
            "step": packed.step,
            "tokens": packed.tokens,
        }
        json.dump(answer, sys.stdout, indent=2, allow_nan=False)
        print()
        return EXIT_DONE
    for path in packed.files:
        print(path)
    print(f"  {num_bytes:,} bytes, step {packed.step:,} of the run, {packed.tokens:,} tokens")
    return EXIT_DONE


def report(exported: "Exported") -> dict[str, Any]:
    """What was written, ready for JSON."""
    from configs.accounting import parameters

    weights, words = exported.files[0], exported.words
    return {
        "weights": str(weights),
        "file_bytes": weights.stat().st_size,
        "digest": exported.digest,
        "step": exported.step,
        "embedding_bits": exported.config.quantization.embedding_bits,
        "parameters": parameters(exported.config),
        "files": [str(path) for path in exported.files],
        "tokenizer": None
        if words.tokenizer is None
        else {"kind": words.tokenizer.kind, "digest": words.tokenizer.digest},
        "own_template": words.has_template,
    }


def _export(args: argparse.Namespace) -> "Exported":
    from exports.b158 import export_b158

    with _bar() as progress:
        return export_b158(
            args.checkpoint,
            args.out,
            embedding_bits=args.embedding_bits,
            tokenizer=args.tokenizer,
            template=args.template,
            progress=progress,
        )


def _bar() -> AbstractContextManager[Callable[[int, int], None] | None]:
    """A bar for a person; a pipe gets none."""
    if not sys.stderr.isatty():
        return nullcontext()
    from runtime.cli.progress import share_done

    return share_done("packing")
