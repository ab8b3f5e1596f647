"""`chimera export`: a trained model in another form: packed for our runtime, or to be trained further."""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import EXIT_DONE, UsageError
from exports.cli import handover, onnx

if TYPE_CHECKING:
    from exports.b158 import Exported

NAMES = {"pack": "a resume pack", "onnx": "an ONNX export", "verify": "a comparison"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The form, from where and to where, and what goes with the weights."""
    parser.add_argument(
        "form",
        metavar="FORM",
        choices=("b158", "pack", *onnx.FORMS, *handover.FORMS),
        help="b158: packed ternary weights, for chimera-run; pack: the weights of a run in bfloat16 and its "
        "place in the data, for `chimera train --pack` on another machine; onnx: a packed model as a graph, "
        "for apps with onnxruntime; verify: such a graph beside the engine; huggingface: a folder for "
        "transformers; gguf: a file for tools that read tensors",
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=Path,
        help="a folder with config.json and model.safetensors, that of a training run, or a resume pack; for "
        "onnx and verify a packed .b158 file or its folder; for huggingface and gguf either",
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        type=Path,
        help="the file to write, OUT.b158, or a folder in which it takes the name that the config says; "
        "config.json, tokenizer and chat template are put beside it; for onnx and huggingface the folder "
        "that is made, for gguf the file",
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
    onnx.add_arguments(parser)
    handover.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write the model and say what was written."""
    onnx.check_options(args)
    handover.check_options(args)
    if args.form in handover.FORMS:
        return handover.run(args)
    if args.form in onnx.FORMS:
        _refuse_words(args)
        return onnx.run(args)
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

    _refuse_words(args)
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


def _refuse_words(args: argparse.Namespace) -> None:
    """Refuse what only a .b158 file can be given."""
    given = [name for name in ("embedding_bits", "tokenizer", "template") if getattr(args, name) is not None]
    if given:
        raise UsageError(
            f"--{given[0].replace('_', '-')} has no meaning for {NAMES[args.form]}", hint="Leave it out."
        )


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
