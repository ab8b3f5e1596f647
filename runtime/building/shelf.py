"""Experts on disk, as a program is built with them: where compiled code will find what is in memory.

Each pass takes the experts that it visits into use, and writes where they lie into their argument tables. So
the tables that are built here hold no address of a weight; a block of memory that nobody reads stands for
every expert until then.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chronos_moe.store.form import expert_layers
from chronos_moe.store.ledger import Ledger
from chronos_moe.store.manifest import Manifest
from configs.schema.model import ModelConfig
from quant.kernels import places as product
from quant.kernels.elementary import places as vector
from quant.kernels.experts import places as at
from quant.kernels.experts import waiting_places as here
from quant.native import KernelsOf
from quant.packing import PackedTernary
from quant.sherry_packing import PackedSherry
from runtime.building.steps import Table
from runtime.program import Step

waiting = KernelsOf("quant.kernels.experts.waiting")

_OF_EXPERT = ".ffn.experts."
"""In the names of a routed expert's tensors."""
_PLACES = {
    "gate_proj.weight.codes": at.GATE + product.CODES * 8,
    "gate_proj.weight.scales": at.GATE + product.SCALES * 8,
    "up_proj.weight.codes": at.UP + product.CODES * 8,
    "up_proj.weight.scales": at.UP + product.SCALES * 8,
    "down_norm.values": at.INNER + vector.GAIN * 8,
    "down_proj.weight.codes": at.DOWN + product.CODES * 8,
    "down_proj.weight.scales": at.DOWN + product.SCALES * 8,
}
"""Stored tensor of an expert: the place of its address in the expert's block of tables, in bytes."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pass:
    """One visit of a layer with experts in a program."""

    row: int
    """The layer's, in the store's tables."""
    note: Step
    hold: Step
    release: Step
    stand_in: Step
    weigh: Step
    visited_E: NDArray[np.int64]
    num_visited: NDArray[np.int64]
    away_E: NDArray[np.int64]


class Shelf:
    """What a program knows of experts that lie on disk."""

    def __init__(self, manifest: Manifest, config: ModelConfig) -> None:
        self.manifest = manifest
        self.form = manifest.form
        self.layers = expert_layers(config)
        """Layers with experts, by their rows."""
        self.num_chosen = config.backbone.moe.num_experts_per_tok
        self.ledger = Ledger(
            num_layers=len(self.layers),
            num_experts=config.backbone.moe.n_routed_experts,
            most_passes=len(self.layers) * config.rounds_most,
        )
        self.passes: list[Pass] = []
        """In the order in which they come."""
        self._tensors = self.form.view(np.zeros(self.form.block_bytes, dtype=np.uint8))
        pairs = [(_PLACES[part.name], begin) for part, begin in self.form.parts()]
        self._parts = np.array(pairs, dtype=np.int64)

    @property
    def order(self) -> tuple[int, ...]:
        """The passes of a call: the row of each one's layer."""
        return tuple(one.row for one in self.passes)

    @staticmethod
    def has(name: str) -> bool:
        """Whether a tensor lies there: those of routed experts do."""
        return _OF_EXPERT in name

    def matrix(self, name: str) -> PackedTernary | PackedSherry:
        """What stands for an expert's matrix while a program is built."""
        found = self._tensors[_part_of(name)]
        assert isinstance(found, PackedTernary | PackedSherry), f"{name} is a matrix"
        return found

    def floats(self, name: str) -> NDArray[np.float32]:
        """The same for float32 tensors."""
        found = self._tensors[_part_of(name)]
        assert isinstance(found, np.ndarray), f"{name} is float32"
        return found

    def add_pass(
        self,
        layer: int,
        *,
        visited_E: NDArray[np.int64],
        num_visited: NDArray[np.int64],
        away_E: NDArray[np.int64],
        table: Table,
        weigh: Step,
    ) -> Pass:
        """The steps of a pass; `table` is the one of the layer's operations on experts."""
        ledger, row, number = self.ledger, self.layers.index(layer), len(self.passes)
        shared = {mine: table[its] for mine, its in _TAKEN.items()}
        own: Table = {
            **shared,
            here.WORDS: ledger.of_layer(ledger.words, row),
            here.PARTS: self._parts.ctypes.data,
            here.NUM_PARTS: len(self._parts),
            here.CLOCK: ledger.clock.ctypes.data,
            here.LAST_VISITS: ledger.of_layer(ledger.last_visits, row),
            here.VISITS: ledger.of_layer(ledger.visits, row),
            here.NEWS: ledger.news.ctypes.data,
            here.HEEDED: ledger.address_of_heeded("pass"),
            here.DESK: ledger.desk.ctypes.data,
            here.IS_PATIENT: ledger.is_patient.ctypes.data,
            here.FIRST: row * ledger.num_experts,
            here.DECISIONS: ledger.decisions[row].ctypes.data,
            here.PLACE: ledger.place.ctypes.data,
            here.NUMBER: number,
            here.BEGUN: ledger.begun[number:].ctypes.data,
            here.STOP: ledger.stop.ctypes.data,
            here.AWAY: away_E.ctypes.data,
        }
        found = Pass(
            row=row,
            note=Step(kernel=waiting.note, arguments=own, num_places=here.NUM_PLACES, units=1),
            hold=Step(
                kernel=waiting.hold,
                arguments=own,
                num_places=here.NUM_PLACES,
                units=1,
                stops=ledger.stop.ctypes.data,
            ),
            release=Step(kernel=waiting.release, arguments=own, num_places=here.NUM_PLACES, units=1),
            stand_in=Step(
                kernel=waiting.stand_in, arguments=own, num_places=here.NUM_PLACES, units_per_token=1
            ),
            weigh=weigh,
            visited_E=visited_E,
            num_visited=num_visited,
            away_E=away_E,
        )
        self.passes.append(found)
        return found


_TAKEN = {
    here.TABLES: at.TABLES,
    here.VISITED: at.VISITED,
    here.NUM_VISITED: at.NUM_VISITED,
    here.CHOSEN: at.CHOSEN,
    here.NUM_CHOSEN: at.NUM_CHOSEN,
    here.PAIR_PLACES: at.PAIR_PLACES,
    here.ROWS: at.ROWS,
    here.ROWS_STRIDE: at.ROWS_STRIDE,
    here.SHARED: at.SHARED,
    here.SHARED_STRIDE: at.SHARED_STRIDE,
    here.WIDTH: at.WIDTH,
}


def _part_of(name: str) -> str:
    """`gate_proj.weight` of `layers.3.ffn.experts.5.gate_proj.weight`."""
    return name.split(_OF_EXPERT)[1].split(".", 1)[1]
