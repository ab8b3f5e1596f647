"""`chimera route-ahead`: have a model's experts decided some layers earlier, so that they are known."""

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from configs.errors import EXIT_DONE, MissingExtra, UsageError

DEFAULT_LAYERS, DEFAULT_TOKENS = 1, 40_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, where to, how early, and the text to fit by."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="a packed .b158 file or its folder")
    parser.add_argument("out", metavar="FOLDER", type=Path, help="the folder to write")
    parser.add_argument(
        "--data",
        metavar="PATH",
        type=Path,
        nargs="+",
        required=True,
        help=".jsonl or .txt files, also as .zst, or folders of them: text of the kind that the model is for",
    )
    parser.add_argument(
        "--layers",
        metavar="N",
        type=int,
        default=DEFAULT_LAYERS,
        help=f"how many layers earlier (default {DEFAULT_LAYERS}); each costs a little quality",
    )
    parser.add_argument(
        "--tokens",
        metavar="N",
        type=int,
        default=DEFAULT_TOKENS,
        help=f"read about so many tokens (default {DEFAULT_TOKENS:,})",
    )
    parser.add_argument("--threads", metavar="N", type=int, help="threads of the CPU")


def run(args: argparse.Namespace) -> int:
    """Fit, write, and say how alike the choices are."""
    for name in ("layers", "tokens", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: a whole number from 1 is needed")
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra(package="torch", extra="train", purpose="fitting routers")
    from exports.perplexity import use_threads
    from exports.rerouting import reroute
    from runtime.measuring.perplexity import read_documents
    from runtime.model_folder import check_vocabulary, open_model

    use_threads(args.threads)
    model = open_model(args.model)
    tokenizer = model.tokenizer()
    check_vocabulary(tokenizer, model.config)
    texts = (document.ids_T for document in read_documents(args.data, tokenizer))
    with _bar() as progress:
        rerouted = reroute(
            args.model, args.out, ahead=args.layers, texts=texts, most_tokens=args.tokens, progress=progress
        )
    agreement = {str(layer): share for layer, share in rerouted.agreement.items()}
    if args.json:
        answer = {"folder": str(rerouted.folder), "digest": rerouted.digest, "agreement": agreement}
        print(json.dumps(answer, indent=2))
        return EXIT_DONE
    shares = ", ".join(f"{share:.1%} in layer {layer}" for layer, share in agreement.items())
    print(f"{rerouted.folder}: of the experts chosen before, the new routers choose {shares}")
    return EXIT_DONE


def _bar() -> AbstractContextManager[Callable[[int, int], None] | None]:
    """A bar for a person; a pipe gets none."""
    if not sys.stderr.isatty():
        return nullcontext()
    from runtime.cli.progress import share_done

    return share_done("reading")
