"""`chimera pack-experts`: lay a packed model's experts on disk in clusters, to be read as needed."""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:
    from chronos_moe.clusters import Clusters
    from chronos_moe.visit_log import VisitLog
    from runtime.model_folder import PackedModel

DEFAULT_TOKENS = 100_000
OUT_SUFFIX = "-experts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, where to, and by what experts are brought together."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="a packed .b158 file or its folder")
    parser.add_argument(
        "-o",
        "--out",
        metavar="FOLDER",
        type=Path,
        help=f"the folder to write (default: beside the model, with its name and {OUT_SUFFIX})",
    )
    together = parser.add_argument_group("which experts lie together (default: by layers)")
    together.add_argument(
        "--calibrate",
        metavar="PATH",
        type=Path,
        nargs="+",
        help="text of the kind that the model is for, which is read to see which experts fire together",
    )
    together.add_argument(
        "--tokens",
        metavar="N",
        type=int,
        help=f"with --calibrate: read so many tokens at most (default {DEFAULT_TOKENS:,})",
    )
    together.add_argument(
        "--log", metavar="FILE", type=Path, help="the same out of a log of chimera log-experts"
    )


def run(args: argparse.Namespace) -> int:
    """Write the folder and say what is in it."""
    _check(args)
    from exports.pack_experts import check_destination, pack_experts
    from runtime.cli.wholeness import check_files
    from runtime.model_folder import open_model

    out = _default_out(args.model) if args.out is None else args.out
    model = open_model(args.model)
    check_destination(model, out)
    check_files(model)
    clusters = _clusters(args, model)
    with _bar("packing") as progress:
        packed = pack_experts(args.model, out, clusters=clusters, progress=progress)
    manifest = packed.manifest
    count = sum(len(cluster.keys) for cluster in manifest.clusters)
    answer = {
        "folder": str(packed.folder),
        "digest": packed.digest,
        "experts": count,
        "expert_bytes": manifest.form.block_bytes,
        "clusters": len(manifest.clusters),
        "cluster_bytes": count * manifest.form.block_bytes,
    }
    if args.json:
        json.dump(answer, sys.stdout, indent=2)
        print()
        return EXIT_DONE
    print(
        f"{packed.folder}: {count:,} experts of {manifest.form.block_bytes:,} bytes in "
        f"{len(manifest.clusters)} files"
    )
    print(f"  digest {packed.digest[:16]}; run it with: chimera-run -m {packed.folder} --experts-memory SIZE")
    return EXIT_DONE


def _check(args: argparse.Namespace) -> None:
    if args.calibrate is not None and args.log is not None:
        raise UsageError("--calibrate and --log are two ways to the same", hint="Give one of them.")
    if args.tokens is not None and args.calibrate is None:
        raise UsageError("--tokens goes with --calibrate", hint="Leave it out, or name a text.")
    if args.tokens is not None and args.tokens < 1:
        raise UsageError(f"--tokens {args.tokens}: a whole number from 1 is needed")


def _clusters(args: argparse.Namespace, model: "PackedModel") -> "Clusters | None":
    """Experts that fire together by a log; None where nothing was asked."""
    if args.calibrate is None and args.log is None:
        return None
    from chronos_moe.clusters import cluster
    from chronos_moe.visit_log import co_occurrence, read_visits
    from exports.pack_experts import most_in_a_file

    log = read_visits(args.log, model=model.digest) if args.log is not None else _recorded(args, model)
    return cluster(co_occurrence(log), experts=log.experts, most=most_in_a_file(model.config))


def _recorded(args: argparse.Namespace, model: "PackedModel") -> "VisitLog":
    """What the texts visit."""
    from runtime.cli.compiling import compiling_told
    from runtime.engine import Engine
    from runtime.measuring.perplexity import read_documents
    from runtime.measuring.visiting import record_visits
    from runtime.model_folder import check_vocabulary

    tokenizer = model.tokenizer()
    check_vocabulary(tokenizer, model.config)
    texts = (document.ids_T for document in read_documents(args.calibrate, tokenizer))
    most, read = args.tokens or DEFAULT_TOKENS, 0
    with compiling_told(), Engine(model) as engine, _bar("reading") as advance:

        def progress(count: int) -> None:
            nonlocal read
            read += count
            if advance is not None:
                advance(read, most)

        return record_visits(engine, texts, most_tokens=most, progress=progress)


def _default_out(model: Path) -> Path:
    base = model.parent if model.suffix == ".b158" and model.parent.name else model
    base = base.resolve()
    return base.with_name(base.name + OUT_SUFFIX)


def _bar(what: str) -> AbstractContextManager[Callable[[int, int], None] | None]:
    """A bar for a person; a pipe gets none."""
    if not sys.stderr.isatty():
        return nullcontext()
    from runtime.cli.progress import share_done

    return share_done(what)
