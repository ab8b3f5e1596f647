"""`chimera log-experts`: which experts a text visits, for clusters and for the intent classifier."""

import argparse
import json
import sys
from contextlib import nullcontext
from pathlib import Path

from configs.errors import EXIT_DONE, UsageError

DEFAULT_TOKENS = 200_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the text, and where the log goes."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="a packed .b158 file or its folder")
    parser.add_argument(
        "--data",
        metavar="PATH",
        type=Path,
        nargs="+",
        required=True,
        help=".jsonl or .txt files, also as .zst, or folders of them: text of the kind that the model is for",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="where the log goes")
    parser.add_argument(
        "--tokens",
        metavar="N",
        type=int,
        default=DEFAULT_TOKENS,
        help=f"read so many tokens at most (default {DEFAULT_TOKENS:,})",
    )
    parser.add_argument("--rounds", metavar="N", type=int, help="rounds of the loop (default: the config's)")
    parser.add_argument("--threads", metavar="N", type=int, help="threads to compute with")
    parser.add_argument(
        "--chat", action="store_true", help="read prompts and conversations by the model's chat template"
    )


def run(args: argparse.Namespace) -> int:
    """Read, write, and tell what was seen."""
    for name in ("tokens", "rounds", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: a whole number from 1 is needed")
    if args.out.is_dir() or not args.out.absolute().parent.is_dir():
        raise UsageError(f"--out {args.out}: name a file in a folder that is there")
    from chronos_moe.visit_log import write_visits
    from runtime.cli.compiling import compiling_told
    from runtime.cli.progress import share_done
    from runtime.cli.wholeness import check_files
    from runtime.engine import Engine
    from runtime.measuring.perplexity import read_documents
    from runtime.measuring.visiting import record_visits
    from runtime.model_folder import check_vocabulary, open_model

    model = open_model(args.model)
    tokenizer = model.tokenizer()
    check_vocabulary(tokenizer, model.config)
    check_files(model)
    chat = model.template(tokenizer) if args.chat else None
    texts = (document.ids_T for document in read_documents(args.data, tokenizer, chat=chat))
    bar = share_done("reading") if sys.stderr.isatty() else nullcontext()
    with compiling_told(), Engine(model, num_threads=args.threads) as engine, bar as advance:
        read = 0

        def progress(count: int) -> None:
            nonlocal read
            read += count
            if advance is not None:
                advance(read, args.tokens)

        log = record_visits(engine, texts, rounds=args.rounds, most_tokens=args.tokens, progress=progress)
    write_visits(args.out, log)
    told = {
        "file": str(args.out),
        "model": log.model,
        "documents": log.num_documents,
        "tokens": len(log.ids_T),
        "layers": list(log.layers),
        "passes": len(log.passes),
        "bytes": args.out.stat().st_size,
    }
    if args.json:
        print(json.dumps(told, indent=2))
    else:
        print(
            f"{told['tokens']:,} tokens of {told['documents']:,} documents, {told['passes']} passes through "
            f"experts each: {args.out}, {told['bytes']:,} bytes"
        )
    return EXIT_DONE
