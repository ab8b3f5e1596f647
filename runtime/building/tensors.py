"""The tensors of an open model by name: views of the mapped files, and the few small arrays made of them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from configs.errors import ModelError
from configs.schema.model import ModelConfig
from quant.container import B158File, open_b158
from quant.kernels.trits.calls import packing_call
from quant.layout_names import LAYOUTS, Layout
from quant.layouts import LaidTernary, laid_out
from quant.packing import PackedRows, PackedTernary
from quant.selfcheck import chosen
from quant.sherry_packing import PackedSherry
from runtime.model_folder import PackedModel
from runtime.packed_inspection import check_tensors
from runtime.verified import Checkable

if TYPE_CHECKING:
    from chronos_moe.store.manifest import Manifest
    from runtime.building.shelf import Shelf

Floats: TypeAlias = NDArray[np.float32]
T = TypeVar("T")


class Tensors:
    """Typed tensors of a model, whose routed experts may lie in a file of their own."""

    def __init__(self, model: PackedModel) -> None:
        self._config = model.config
        self._files = [model.file]
        self.manifest = _manifest(model)
        """Of files of experts that are read as they are needed, where the model has such."""
        self.shelf: Shelf | None = None
        """Where they are, for whoever runs the model."""
        if model.holding == "all but routed experts" and self.manifest is None:
            self._files.append(_experts_file(model))
        self._made: dict[str, object] = {}
        self.keeps_tiles = model.moves_codes
        """Whether codes are to be moved where they lie."""
        self.layout: Layout = LAYOUTS[0]
        """How `laid` gives ternary matrices."""

    def put_on_shelf(self) -> None:
        """Leave experts that lie in clusters where they are; a program is built to wait for them."""
        if self.manifest is not None:
            from runtime.building.shelf import Shelf

            self.shelf = Shelf(self.manifest, self._config)

    @property
    def ternary_bytes(self) -> int:
        """Bytes of all matrices in 2-bit tiles, with their scales."""
        named = ((file, name) for file in self._files for name in file.tensors)
        return sum(file.stored_bytes(name) for file, name in named if file.tensors[name].kind == "ternary")

    @property
    def laid_bytes(self) -> int:
        """Memory of the copies that another layout took."""
        return sum(made.codes.nbytes for made in self._made.values() if isinstance(made, LaidTernary))

    @property
    def files(self) -> tuple[B158File, ...]:
        return tuple(self._files)

    @property
    def whole_files(self) -> tuple[Checkable, ...]:
        """All files of the model, to be looked through for damage."""
        if self.manifest is None:
            return self.files
        from chronos_moe.store.whole import cluster_files

        return (*self.files, *cluster_files(self.manifest, self._files[0].path.parent))

    def ternary(self, name: str) -> PackedTernary | PackedSherry:
        """A ternary matrix in the form that the model is packed in."""
        if self.shelf is not None and self.shelf.has(name):
            return self.shelf.matrix(name)
        file = self._file_of(name)
        spec = file.tensors.get(name)
        return file.sherry(name) if spec is not None and spec.kind == "sherry" else file.ternary(name)

    def laid(self, name: str) -> PackedTernary | LaidTernary | PackedSherry:
        """A ternary matrix as products read it: a view of the file, or a copy in another layout."""
        packed = self.ternary(name)
        is_shelved = self.shelf is not None and self.shelf.has(name)
        if self.layout == LAYOUTS[0] or isinstance(packed, PackedSherry) or is_shelved:
            return packed
        return self.made(f"laid {name}", lambda: laid_out(packed, layout=self.layout, pack=_in_trits))

    def rows(self, name: str) -> PackedRows:
        return self._file_of(name).rows(name)

    def floats(self, name: str) -> Floats:
        if self.shelf is not None and self.shelf.has(name):
            return self.shelf.floats(name)
        return self._file_of(name).floats(name)

    def made(self, name: str, make: Callable[[], T]) -> T:
        """What is made of tensors, once for each name; its arrays stay where they are."""
        if name not in self._made:
            self._made[name] = make()
        return cast(T, self._made[name])

    def close(self) -> None:
        """Give up the maps. Arrays that view them stay valid as long as they are held."""
        for file in self._files:
            file.close()

    def _file_of(self, name: str) -> B158File:
        return next((file for file in self._files if name in file.tensors), self._files[0])


def _in_trits(packed: PackedTernary) -> NDArray[np.uint8]:
    call = packing_call(packed)
    call.run(chosen("trits_packing").kernel, 0, call.units)
    return call.outputs[0]


def _manifest(model: PackedModel) -> "Manifest | None":
    if model.holding != "all but routed experts":
        return None
    from chronos_moe.store.manifest import EXPERTS_KEY, MANIFEST_NAME, read_manifest

    path = model.folder / MANIFEST_NAME
    if not path.is_file():
        return None
    return read_manifest(path, model.config, experts_digest=model.file.metadata.get(EXPERTS_KEY))


def _experts_file(model: PackedModel) -> B158File:
    path = model.folder / model.config.files.moe
    if not path.is_file():
        from chronos_moe.store.manifest import MANIFEST_NAME

        raise ModelError(
            f"{model.file.path} holds all but the routed experts, and there is no {path.name} nor "
            f"{MANIFEST_NAME} beside it",
            hint="Copy the files of experts there, or export the model again as one file.",
        )
    file = open_b158(path)
    _check_experts(file, model.config)
    return file


def _check_experts(file: B158File, config: ModelConfig) -> None:
    if check_tensors(file, config) != "routed experts":
        raise ModelError(
            f"{file.path} does not hold this model's routed experts", hint="Export the model again."
        )
