"""`chimera export huggingface` and `gguf`: a model for other programs."""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from configs.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:
    from exports.handover.folder import Folder
    from exports.handover.gguf import GgufExport

FORMS = ("huggingface", "gguf")
DTYPES = ("float32", "bfloat16")
TERNARY_TYPES = ("tq2_0", "tq1_0")
EMBEDDING_TYPES = ("f32", "f16", "q8_0")
OF_FORM = {"dtype": "huggingface", "ternary": "gguf", "embedding": "gguf", "allow_loss": "gguf"}
"""Options that one form alone takes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the two forms take beside the model, the place, and the words."""
    parser.add_argument(
        "--dtype", choices=DTYPES, help="huggingface: the type of the file's numbers (default: float32)"
    )
    parser.add_argument(
        "--ternary",
        choices=TERNARY_TYPES,
        help="gguf: the type of ternary tensors, 2 or 1.6 bits (default: tq2_0)",
    )
    parser.add_argument(
        "--embedding",
        choices=EMBEDDING_TYPES,
        help="gguf: the type of embedding and head (default: f32, which is exact)",
    )
    parser.add_argument(
        "--allow-loss",
        action="store_true",
        default=None,
        help="gguf: one scale for 256 weights, inside of their blocks, in the place of exact scales in "
        "tensors of their own; the error is told",
    )


def check_options(args: argparse.Namespace) -> None:
    """Refuse an option of another form."""
    for name, form in OF_FORM.items():
        if getattr(args, name) is not None and args.form != form:
            raise UsageError(
                f"--{name.replace('_', '-')} has no meaning for `chimera export {args.form}`",
                hint=f"It goes with: chimera export {form}",
            )


def run(args: argparse.Namespace) -> int:
    """Write it, and say what was written."""
    if args.embedding_bits is not None:
        raise UsageError(
            f"--embedding-bits has no meaning for `chimera export {args.form}`", hint="Leave it out."
        )
    with bar("writing") as progress:
        if args.form == "huggingface":
            return _folder(args, progress)
        return _gguf(args, progress)


def _folder(args: argparse.Namespace, progress: Callable[[int, int], None] | None) -> int:
    from exports.handover.folder import export_huggingface

    done = export_huggingface(
        args.checkpoint,
        args.out,
        dtype=args.dtype or DTYPES[0],
        tokenizer=args.tokenizer,
        template=args.template,
        progress=progress,
    )
    return told(folder_report(done), lambda report: _print_folder(done, report), as_json=args.json)


def folder_report(done: "Folder") -> dict[str, Any]:
    """What was written, ready for JSON."""
    from configs.accounting import parameters

    return {
        "folder": str(done.path),
        "files": list(done.files),
        "file_bytes": sum((done.path / name).stat().st_size for name in done.files),
        "parameters": parameters(done.config),
        "dtype": done.dtype,
        "weight_form": done.form,
        "tokenizer": None if done.words.tokenizer is None else done.words.tokenizer.digest,
    }


def _print_folder(done: "Folder", report: dict[str, Any]) -> None:
    forms = {"latent": "quantised where they are used", "held": "scale × code of a packed model"}
    print(f"{report['folder']}: {report['file_bytes']:,} bytes")
    print(f"  {report['parameters']:,} parameters in {report['dtype']}, {forms[done.form]}")
    for name in report["files"]:
        print(f"  {name}")
    if done.words.tokenizer is None:
        print("  no tokenizer: --tokenizer FILE adds one")
    print("  load it after `import exports.huggingface`: AutoModelForCausalLM.from_pretrained")


def _gguf(args: argparse.Namespace, progress: Callable[[int, int], None] | None) -> int:
    from exports.handover.gguf import export_gguf

    done = export_gguf(
        args.checkpoint,
        args.out,
        ternary=args.ternary or TERNARY_TYPES[0],
        embedding=args.embedding or EMBEDDING_TYPES[0],
        allow_loss=bool(args.allow_loss),
        tokenizer=args.tokenizer,
        template=args.template,
        progress=progress,
    )
    report = {
        "file": str(done.path),
        "file_bytes": done.path.stat().st_size,
        "tensors": done.num_tensors,
        "ternary": args.ternary or TERNARY_TYPES[0],
        "embedding": args.embedding or EMBEDDING_TYPES[0],
        "scales": done.scales,
        "ternary_loss": done.ternary_loss,
        "embedding_loss": done.embedding_loss,
        "tokenizer": None if done.words.tokenizer is None else done.words.tokenizer.digest,
    }
    return told(report, lambda report: _print_gguf(done, report), as_json=args.json)


def _print_gguf(done: "GgufExport", report: dict[str, Any]) -> None:
    print(f"{report['file']}: {report['file_bytes']:,} bytes, {report['tensors']} tensors")
    where = "in tensors of their own, NAME.scales" if done.scales == "tensor" else "inside of the blocks"
    print(
        f"  ternary tensors as {report['ternary']}, their scales {where}; error {_percent(done.ternary_loss)}"
    )
    print(f"  embedding as {report['embedding']}; error {_percent(done.embedding_loss)}")
    if done.words.tokenizer is None:
        print("  no tokenizer: --tokenizer FILE adds one")
    print("  for tools that read tensors: llama.cpp has no graph for this architecture")


def _percent(loss: float) -> str:
    return f"{loss:.3%}" if loss else "none"


def told(report: dict[str, Any], show: Callable[[dict[str, Any]], None], *, as_json: bool) -> int:
    """Print what was done, for a program or for a person."""
    if as_json:
        json.dump(report, sys.stdout, indent=2, allow_nan=False)
        print()
    else:
        show(report)
    return EXIT_DONE


def bar(what: str) -> AbstractContextManager[Callable[[int, int], None] | None]:
    """A bar for a person; a pipe gets none."""
    if not sys.stderr.isatty():
        return nullcontext()
    from runtime.cli.progress import share_done

    return share_done(what)
