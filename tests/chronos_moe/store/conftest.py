"""A small model whose experts lie in clusters."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from chronos_moe.store.manifest import EXPERTS_KEY, MANIFEST_NAME, Manifest, read_manifest
from configs.load import build_config
from configs.schema.model import ModelConfig
from exports.pack_experts import pack_experts
from quant.container import open_b158
from runtime.random_model import random_b158

LAYERS, NUM_EXPERTS = (1, 2), 6
CONFIG = {
    "preset": "micro",
    "backbone": {"moe": {"enabled": True, "layers": list(LAYERS), "n_routed_experts": NUM_EXPERTS}},
}


@dataclass(frozen=True, kw_only=True)
class Packed:
    """The folder, and what it was packed from."""

    source: Path
    folder: Path
    config: ModelConfig
    manifest: Manifest

    def read(self) -> Manifest:
        """The manifest as it lies there now."""
        with open_b158(self.folder / "model.b158") as file:
            return read_manifest(
                self.folder / MANIFEST_NAME, self.config, experts_digest=file.metadata[EXPERTS_KEY]
            )


@pytest.fixture(scope="session")
def packed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    (folder / "model").mkdir()
    source = folder / "model" / "model.b158"
    random_b158(build_config(CONFIG, source="a test"), source, seed=3)
    keys = [(layer, expert) for expert in range(NUM_EXPERTS) for layer in LAYERS]
    pack_experts(source, folder / "packed", clusters=[keys[:5], keys[5:6], keys[6:]])
    return folder


@pytest.fixture
def packed(packed_once: Path, tmp_path: Path) -> Packed:
    """A copy that a test may spoil."""
    folder = tmp_path / "packed"
    shutil.copytree(packed_once / "packed", folder)
    config = build_config(CONFIG, source="a test")
    with open_b158(folder / "model.b158") as file:
        manifest = read_manifest(folder / MANIFEST_NAME, config, experts_digest=file.metadata[EXPERTS_KEY])
    return Packed(
        source=packed_once / "model" / "model.b158", folder=folder, config=config, manifest=manifest
    )
