"""`chimera import`: a model in another program's form as a checkpoint of ours."""

import argparse
from pathlib import Path
from typing import Any

from exports.cli.handover import bar, told


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The form, from where and to where."""
    parser.add_argument(
        "form",
        metavar="FORM",
        choices=("huggingface",),
        help="huggingface: a folder with config.json and safetensors, as `chimera export huggingface` or "
        "save_pretrained wrote it",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the model to read")
    parser.add_argument(
        "out",
        metavar="OUT",
        type=Path,
        help="the folder to make: a checkpoint, for `chimera train --init` and `chimera export`",
    )


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint and say what was written."""
    from configs.accounting import parameters
    from exports.handover.intake import import_huggingface

    with bar("reading") as progress:
        done = import_huggingface(args.folder, args.out, progress=progress)
    report: dict[str, Any] = {
        "folder": str(done.path),
        "files": list(done.files),
        "parameters": parameters(done.config),
        "weight_form": done.form,
    }

    def show(report: dict[str, Any]) -> None:
        print(f"{report['folder']}: {report['parameters']:,} parameters")
        for name in report["files"]:
            print(f"  {name}")
        if done.form == "held":
            print("  latent weights are drawn: they quantise to the scales and codes that came")

    return told(report, show, as_json=args.json)
