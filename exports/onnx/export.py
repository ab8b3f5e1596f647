"""From a packed model to a folder for edge apps: a graph, its weights, words, and the contract of its states.

    OUT/
      model.onnx            the graph
      model.onnx.data       its weights, in 2 bits as in the packed file
      state_contract.json   inputs, outputs and states: names, shapes, what they hold
      genai_config.json     where onnxruntime-genai can carry the states
      tokenizer.json, tokenizer_config.json, chat_template.jinja, and a tokenizer.model that the model has

The folder is whole or not there.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ChimeraError, ModelError
from configs.text.tokenizer import Tokenizer
from configs.text.tokenizer_json import tokenizer_config_json, tokenizer_json
from exports.handover.o200k_json import o200k_json
from exports.onnx.contract import CONTRACT_NAME, contract, to_bytes
from exports.onnx.data import DATA_NAME
from exports.onnx.genai import GENAI_NAME, GRAPH_NAME, genai_config
from exports.onnx.model import BuiltModel, build_model, checked_rounds
from exports.onnx.weights import Profile
from exports.whole_model import whole_tensors
from exports.words import SIDE_NAME
from quant.whole_folder import check_free, whole_folder
from runtime.building.states import check_runnable
from runtime.building.tensors import Tensors
from runtime.model_folder import TEMPLATE_NAME, TOKENIZER_DIGEST_KEY, PackedModel, open_model

TOKENIZER_NAME = "tokenizer.json"
SENTENCEPIECE_NAME = "tokenizer.model"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedGraph:
    """What an export wrote."""

    folder: Path
    files: tuple[str, ...]
    num_bytes: int
    packed_bytes: int
    """Of the packed files that it came from."""
    num_nodes: int
    rounds: int
    state_bytes: int
    genai_refusal: str
    words_refusal: str
    """Why there is no tokenizer.json; empty where there is."""


def export_onnx(
    model: Path | str,
    out: Path,
    *,
    profile: Profile = "native",
    rounds: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExportedGraph:
    """Write a packed model as a graph whose loop runs so many rounds, the config's where none are given."""
    check_free(out)
    opened = open_model(model)
    check_runnable(opened.config)
    rounds = checked_rounds(opened.config, rounds)
    tensors = whole_tensors(opened)
    try:
        _check_experts(tensors)
        digest = opened.digest
        built = build_model(
            opened.config,
            tensors,
            profile=profile,
            rounds=rounds,
            metadata={"model_digest": digest, "profile": profile, "rounds": str(rounds)},
        )
        words, tokenizer, words_refusal = _words(opened)
        files = _small_files(opened, built, words, tokenizer, profile=profile, rounds=rounds)
        num_bytes = built.data.num_bytes + sum(map(len, files.values()))
        with whole_folder(out) as folder:
            check_space(folder, num_bytes)
            with (folder / DATA_NAME).open("wb") as file:
                built.data.write(file, progress=progress)
            for name, content in files.items():
                (folder / name).write_bytes(content)
        packed_bytes = sum(file.path.stat().st_size for file in tensors.files)
    finally:
        tensors.close()
    return ExportedGraph(
        folder=out,
        files=(DATA_NAME, *files),
        num_bytes=num_bytes,
        packed_bytes=packed_bytes,
        num_nodes=len(built.proto.graph.node),
        rounds=rounds,
        state_bytes=built.states.num_bytes,
        genai_refusal=built.states.genai_refusal,
        words_refusal=words_refusal,
    )


def _check_experts(tensors: Tensors) -> None:
    if tensors.manifest is not None:
        raise ModelError(
            "the routed experts lie in clusters that are read as they are needed; a graph holds all of them",
            hint="Name the packed file from which the clusters were made.",
        )


def _words(model: PackedModel) -> tuple[dict[str, bytes], Tokenizer | None, str]:
    """Files of tokenizer and template, the tokenizer, and why there is no tokenizer.json."""
    if TOKENIZER_DIGEST_KEY not in model.file.metadata:
        return {}, None, "the model was exported without a tokenizer"
    tokenizer = model.tokenizer()
    files: dict[str, bytes] = {}
    refusal = ""
    if tokenizer.kind == "sentencepiece":
        data = Path(tokenizer.source).read_bytes()
        files[SENTENCEPIECE_NAME] = data
        refusal = tokenizer.lossy_because
        if not refusal:
            files[TOKENIZER_NAME] = tokenizer_json(data, source=tokenizer.source)
            files[SIDE_NAME] = tokenizer_config_json(tokenizer)
    elif tokenizer.kind == "huggingface":
        path = Path(tokenizer.source)
        files[TOKENIZER_NAME] = path.read_bytes()
        side = path.with_name(SIDE_NAME)
        files[SIDE_NAME] = side.read_bytes() if side.is_file() else tokenizer_config_json(tokenizer)
    else:
        files[TOKENIZER_NAME] = o200k_json(tokenizer)
        files[SIDE_NAME] = tokenizer_config_json(tokenizer)
    files[TEMPLATE_NAME] = model.template(tokenizer).source.encode()
    return files, tokenizer, refusal


def _small_files(
    model: PackedModel,
    built: BuiltModel,
    words: dict[str, bytes],
    tokenizer: Tokenizer | None,
    *,
    profile: Profile,
    rounds: int,
) -> dict[str, bytes]:
    told = contract(
        model.config,
        built.states,
        profile=profile,
        rounds=rounds,
        digest=model.digest,
        tokenizer="" if tokenizer is None else tokenizer.digest,
    )
    files = {GRAPH_NAME: built.proto.SerializeToString(), CONTRACT_NAME: to_bytes(told), **words}
    if not built.states.genai_refusal:
        stops = {model.config.token_ids[0]} if tokenizer is None else tokenizer.special_ids
        files[GENAI_NAME] = to_bytes(genai_config(model.config, built.states, stops=tuple(sorted(stops))))
    return files


def check_space(folder: Path, num_bytes: int) -> None:
    """Refuse before anything is written what cannot fit."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise ChimeraError(
            f"{folder.parent}: the export takes {num_bytes:,} bytes, and {free:,} are free",
            hint="Free some space, or name a folder on another disk.",
        )
