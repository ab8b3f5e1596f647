"""`cluster_manifest.json`: which expert lies where, and what its bytes are.

    format          "chimera experts"
    format_version  1
    source          the digest of the model that the experts were taken from
    experts_digest  one digest of all experts, which the model's packed weights name too
    block_bytes     what an expert takes in a file
    clusters        a list of {"file": its name, "experts": a list of [layer, expert, SHA-256 of its block]}

Where an expert begins follows: behind the header, in the order of the list, each with its block.
"""

import json
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NoReturn, cast

from chronos_moe.store.cluster_file import DAMAGED_HINT, SUFFIX, Key, check_file, header_bytes
from chronos_moe.store.form import ExpertForm, expert_form, expert_layers, joint_digest
from configs.errors import ClusterError
from configs.schema.model import ModelConfig
from configs.strict_json import JsonValue, parse_object
from quant.container_format import DIGEST_CHARACTERS

MANIFEST_NAME = "cluster_manifest.json"
FORMAT, VERSION = "chimera experts", 1
MOST_BYTES = 64 * 2**20
SOURCE_KEY, EXPERTS_KEY = "experts_taken_from", "experts_digest"
"""Keys of the metadata of the packed weights beside it: the model that was packed, and its experts."""
_KEYS = ("format", "format_version", "source", "experts_digest", "block_bytes", "clusters")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """One file."""

    file: str
    keys: tuple[Key, ...]
    digests: tuple[str, ...]
    """Of each expert's block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where an expert lies."""

    cluster: int
    offset: int
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """All experts of a model and their files."""

    source: str
    clusters: tuple[Cluster, ...]
    form: ExpertForm

    @property
    def experts_digest(self) -> str:
        """One name for all experts."""
        return joint_digest(
            (*key, digest)
            for cluster in self.clusters
            for key, digest in zip(cluster.keys, cluster.digests, strict=True)
        )

    def header(self, number: int) -> bytes:
        """What a cluster's file begins with."""
        return header_bytes(self.clusters[number].keys, form=self.form, source=self.source, number=number)

    def file_bytes(self, number: int) -> int:
        """The size of a cluster's file."""
        return len(self.header(number)) + len(self.clusters[number].keys) * self.form.block_bytes

    def by_rows(self, layers: Sequence[int]) -> list[list[tuple[int, int]]]:
        """The experts of each cluster, by the rows of their layers in tables."""
        rows = {layer: row for row, layer in enumerate(layers)}
        return [[(rows[layer], expert) for layer, expert in cluster.keys] for cluster in self.clusters]

    def places(self) -> dict[Key, Place]:
        """Where each expert lies."""
        return {
            key: Place(cluster=number, offset=begin + at * self.form.block_bytes, digest=digest)
            for number, cluster in enumerate(self.clusters)
            for begin in (len(self.header(number)),)
            for at, (key, digest) in enumerate(zip(cluster.keys, cluster.digests, strict=True))
        }

    def to_json(self) -> bytes:
        """The text of the file, a line an expert."""
        head = {
            "format": FORMAT,
            "format_version": VERSION,
            "source": self.source,
            "experts_digest": self.experts_digest,
            "block_bytes": self.form.block_bytes,
        }
        begin = json.dumps(head, indent=1)[: -len("\n}")]
        files = ",\n".join(_file_text(cluster) for cluster in self.clusters)
        return f'{begin},\n "clusters": [\n{files}\n ]\n}}\n'.encode()


def read_manifest(path: Path, config: ModelConfig, *, experts_digest: str | None) -> Manifest:
    """The manifest of a model's folder, checked against its config, its weights and the files beside it."""
    read = parse_object(_text(path), source=str(path), error=ClusterError)
    _check_head(path, read)
    form = expert_form(config)
    if read["block_bytes"] != form.block_bytes:
        _fail(
            path,
            f"an expert takes {read['block_bytes']} bytes; those of this model take {form.block_bytes:,}",
        )
    listed = read["clusters"]
    if not isinstance(listed, list):
        _fail(path, "clusters is not a list")
    manifest = Manifest(
        source=_digest(path, read["source"], what="source"),
        clusters=tuple(_cluster(path, entry, number) for number, entry in enumerate(listed)),
        form=form,
    )
    _check_experts(path, manifest, config)
    if experts_digest is None or not manifest.experts_digest == read["experts_digest"] == experts_digest:
        _fail(path, "its experts are not those that the weights beside it were packed with")
    for number, cluster in enumerate(manifest.clusters):
        check_file(
            path.parent / cluster.file,
            expected_header=manifest.header(number),
            file_bytes=manifest.file_bytes(number),
        )
    return manifest


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            _fail(path, f"it has more than {MOST_BYTES // 2**20} MiB")
        return path.read_bytes().decode("ascii")
    except UnicodeDecodeError as error:
        _fail(path, f"byte {error.start} is not ASCII")
    except OSError as error:
        raise ClusterError(f"{path} cannot be read: {error.strerror or error}") from error


def _check_head(path: Path, read: "dict[str, JsonValue]") -> None:
    if read.get("format") != FORMAT:
        _fail(path, f"its format is {read.get('format')!r}; expected {FORMAT!r}")
    if read.get("format_version") != VERSION:
        raise ClusterError(
            f"{path} is of version {read.get('format_version')}; this program reads version {VERSION}",
            hint="Update the program, or pack the experts again with this one: chimera pack-experts",
        )
    if sorted(read) != sorted(_KEYS):
        _fail(path, f"its keys are {', '.join(sorted(read))}; expected {', '.join(sorted(_KEYS))}")


def _cluster(path: Path, entry: JsonValue, number: int) -> Cluster:
    what = f"clusters[{number}]"
    if not isinstance(entry, dict) or sorted(entry) != ["experts", "file"]:
        _fail(path, f"{what} has not the keys experts and file")
    file, listed = entry["file"], entry["experts"]
    if (
        not isinstance(file, str)
        or not file.isprintable()
        or PurePath(file).name != file
        or not file.endswith(SUFFIX)
    ):
        _fail(path, f"{what} names the file {file!r}; expected the plain name of a {SUFFIX} file")
    if not isinstance(listed, list) or not listed:
        _fail(path, f"{what} lists no experts")
    keys: list[Key] = []
    digests: list[str] = []
    for expert in listed:
        match expert:
            case [int(layer), int(of_layer), str(digest)]:
                keys.append((layer, of_layer))
                digests.append(_digest(path, digest, what=f"{what}: expert {of_layer} of layer {layer}"))
            case _:
                _fail(path, f"{what} lists {str(expert)[:80]}; expected [layer, expert, digest]")
    return Cluster(file=file, keys=tuple(keys), digests=tuple(digests))


def _check_experts(path: Path, manifest: Manifest, config: ModelConfig) -> None:
    """Each expert of the model once, and each file once."""
    found = [key for cluster in manifest.clusters for key in cluster.keys]
    experts = range(config.backbone.moe.n_routed_experts)
    expected = {(layer, expert) for layer in expert_layers(config) for expert in experts}
    if len(found) != len(set(found)):
        twice = next(key for key in found if found.count(key) > 1)
        _fail(path, f"expert {twice[1]} of layer {twice[0]} is listed twice")
    if missing := sorted(expected - set(found)):
        _fail(
            path, f"expert {missing[0][1]} of layer {missing[0][0]} is not listed, of {len(missing)} in all"
        )
    if foreign := sorted(set(found) - expected):
        _fail(path, f"expert {foreign[0][1]} of layer {foreign[0][0]} is not of this model")
    files = [cluster.file for cluster in manifest.clusters]
    if len(files) != len(set(files)):
        _fail(path, "a file is listed twice")


def _digest(path: Path, value: JsonValue, *, what: str) -> str:
    if (
        not isinstance(value, str)
        or len(value) != DIGEST_CHARACTERS
        or not set(value) <= set(string.hexdigits.lower())
    ):
        _fail(
            path,
            f"{what} has the digest {str(value)[:80]!r}; expected {DIGEST_CHARACTERS} hexadecimal digits",
        )
    return value


def _file_text(cluster: Cluster) -> str:
    rows: Sequence[tuple[int, int, str]] = [
        (*key, digest) for key, digest in zip(cluster.keys, cluster.digests, strict=True)
    ]
    lines = ",\n".join(f"   {json.dumps(cast(object, row))}" for row in rows)
    return f'  {{"file": {json.dumps(cluster.file)}, "experts": [\n{lines}\n  ]}}'


def _fail(path: Path, what: str) -> NoReturn:
    raise ClusterError(f"{path} is no manifest of this model's experts: {what}", hint=DAMAGED_HINT)
