"""A packed model of any config with random weights: what benchmarks run where no model has learnt yet.

Weights are drawn as packed bytes, never as floats, so that a model of billions of weights takes seconds and
memory holds one piece of a tensor. Scales are those of a fresh model, with every gain, bias and gate moved
off its neutral value, so that an engine that forgets one gives other numbers.

The same config and seed give the same bytes on every machine: only whole-number draws and exact float32
operations stand between the generator and the file.
"""

from collections.abc import Callable, Iterator, Mapping
from math import prod, sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from configs.inventory import Tensor, packed_tensors
from configs.load import to_json
from configs.schema.model import ModelConfig
from configs.schema.quantization import EmbeddingBits
from quant.container_format import KIND_BITS, Kind, TensorSpec
from quant.container_writer import B158Writer, Piece
from quant.embedding import MAX_CODES, RowBits
from quant.packing import (
    INPUTS_PAD,
    ROW_PAIR,
    PackedRows,
    PackedTernary,
    codes_shape,
    first_invalid_code,
    pack_rows,
    pack_ternary,
    row_scales_shape,
    ternary_scales_shape,
    unpack_rows,
    unpack_ternary,
)
from quant.sherry_packing import PackedSherry, pack_sherry, sherry_codes_shape, unpack_sherry
from runtime.packed_specs import packed_specs, with_embedding_bits

Progress = Callable[[int, int], None]
Range = tuple[float, float]

# Memory holds a few pieces of this many bytes of codes.
_PIECE_BYTES = 8 * 2**20
# The share of a weight's deviation that its group's absmean scale is, for weights of a normal distribution.
_SCALE_OF_DEVIATION = 0.8
_WRITES_TO_RESIDUAL = ("o_proj.weight", "down_proj.weight")


def random_b158(
    config: ModelConfig,
    path: Path | str,
    *,
    seed: int = 0,
    embedding_bits: EmbeddingBits | None = None,
    progress: Progress | None = None,
) -> str:
    """Write the model and give its digest; `progress` is given the number of weights written, and of all.

    `embedding_bits` replaces the config's own, in the config inside the file as well.
    """
    if seed < 0:
        raise UsageError(f"a seed must be a whole number from 0, got {seed}")
    config = with_embedding_bits(config, embedding_bits)
    specs = packed_specs(config)
    metadata = {"random_weights_seed": str(seed)}
    parts = [part for tensor in packed_tensors(config) for part in tensor.apart()]
    total, done = sum(part.size for part in parts), 0
    with B158Writer(path, tensors=specs, config=to_json(config), metadata=metadata) as writer:
        for number, (tensor, spec) in enumerate(zip(parts, specs, strict=True)):
            draws = np.random.SFC64(np.random.SeedSequence((seed, number)))
            for piece in _pieces(config, tensor, spec, draws):
                writer.write(spec.name, piece)
            done += tensor.size
            if progress is not None:
                progress(done, total)
    return writer.digest


def _pieces(config: ModelConfig, tensor: Tensor, spec: TensorSpec, draws: np.random.SFC64) -> Iterator[Piece]:
    if spec.kind == "float32":
        yield uniform(draws, spec.shape, within=range_of(config, tensor))
        return
    deviation = deviation_of(config, spec.name)
    num_rows, num_inputs = spec.shape
    rows_a_piece = (
        max(1, _PIECE_BYTES * 8 // (KIND_BITS.get(spec.kind, 2) * num_inputs * ROW_PAIR)) * ROW_PAIR
    )
    for first in range(0, num_rows, rows_a_piece):
        height = min(rows_a_piece, num_rows - first)
        yield _rows(draws, (height, num_inputs), kind=spec.kind, deviation=deviation)


def deviation_of(config: ModelConfig, name: str) -> float:
    """The standard deviation of a matrix in a fresh model."""
    writes_to_residual = name.endswith(_WRITES_TO_RESIDUAL)
    return config.initializer_range / (sqrt(2 * config.num_hidden_layers) if writes_to_residual else 1)


def scale_of(deviation: float, kind: Kind) -> float:
    """The scale of codes that are spread evenly, so that weights have this deviation."""
    if kind == "sherry":
        return deviation / sqrt(0.75)
    if kind == "ternary":
        return _SCALE_OF_DEVIATION * deviation
    most = MAX_CODES[KIND_BITS[kind]]
    return deviation / sqrt(most * (most + 1) / 3)


def _rows(draws: np.random.SFC64, shape: tuple[int, int], *, kind: Kind, deviation: float) -> Piece:
    """Whole rows in tiles, every code equally likely."""
    num_rows, num_inputs = shape
    scale = scale_of(deviation, kind)
    padded = num_rows % ROW_PAIR or num_inputs % INPUTS_PAD
    if kind == "sherry":
        return _sherry(draws, shape, scale=scale)
    bits = KIND_BITS[kind]
    codes = random_codes(draws, codes_shape(num_rows, num_inputs, bits=bits), bits=bits)
    if kind == "ternary":
        scales = uniform(
            draws, ternary_scales_shape(num_rows, num_inputs), within=(0.75 * scale, 1.25 * scale)
        )
        packed = PackedTernary(
            codes=codes,
            scales=scales.astype(np.float16),
            num_rows=num_rows,
            num_inputs=num_inputs,
        )
        # Out of the tiles and back again: what lies beyond the shape becomes zero.
        return pack_ternary(unpack_ternary(packed)) if padded else packed
    rows = PackedRows(
        codes=codes.view(np.int8) if bits == 8 else codes,
        scales=uniform(draws, row_scales_shape(num_rows), within=(0.75 * scale, 1.25 * scale)),
        num_rows=num_rows,
        num_inputs=num_inputs,
        bits=bits,
    )
    return pack_rows(unpack_rows(rows)) if padded else rows


def _sherry(draws: np.random.SFC64, shape: tuple[int, int], *, scale: float) -> PackedSherry:
    num_rows, num_inputs = shape
    scales = uniform(draws, ternary_scales_shape(num_rows, num_inputs), within=(0.75 * scale, 1.25 * scale))
    packed = PackedSherry(
        codes=random_bytes(draws, sherry_codes_shape(num_rows, num_inputs)),
        scales=scales.astype(np.float16),
        num_rows=num_rows,
        num_inputs=num_inputs,
    )
    return pack_sherry(unpack_sherry(packed)) if num_rows % ROW_PAIR or num_inputs % INPUTS_PAD else packed


def random_bytes(draws: np.random.SFC64, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Any bytes, for codes of which all are valid."""
    count = prod(shape)
    return draws.random_raw(-(-count // 8)).view(np.uint8)[:count].reshape(shape)


def random_codes(draws: np.random.SFC64, shape: tuple[int, ...], *, bits: RowBits) -> NDArray[np.uint8]:
    """Bytes of valid codes: 16 random bits choose one of the 255, 225 or 81 bytes that there are."""
    every = np.arange(256, dtype=np.uint8)
    valid = every[[first_invalid_code(byte, bits=bits) is None for byte in every[:, None]]]
    table = valid[np.arange(2**16) * len(valid) >> 16]
    num_bytes = prod(shape)
    sixteens = draws.random_raw(-(-num_bytes // 4)).view(np.uint16)[:num_bytes]
    return table[sixteens].reshape(shape)


def uniform(draws: np.random.SFC64, shape: tuple[int, ...], *, within: Range) -> NDArray[np.float32]:
    """Values spread evenly over a range, in 2**24 steps."""
    count = prod(shape)
    steps = draws.random_raw(-(-count // 2)).view(np.uint32)[:count] >> np.uint32(8)
    low, high = (np.float32(bound) for bound in within)
    share = steps.astype(np.float32) * np.float32(2.0**-24)
    return (low + share * (high - low)).reshape(shape)


def range_of(config: ModelConfig, tensor: Tensor) -> Range:
    """Where the values of a float32 tensor lie; the longest ending that fits its name decides."""
    ranges = _ranges(config)
    return ranges[max((ending for ending in ranges if tensor.name.endswith(ending)), key=len)]


def _ranges(config: ModelConfig) -> Mapping[str, Range]:
    projection, inner = _even(config.initializer_range), _even(1 / sqrt(config.head_dim))
    near_one = (0.9, 1.1)
    loop_matrix = near_one if config.looping.injection == "diagonal" else _even(1 / sqrt(config.hidden_size))
    return {
        "norm.weight": near_one,
        "down_norm": near_one,
        "conv.weight": (-0.5, 0.5),
        "_proj.weight": projection,
        "mixer.A_log": (0.0, 2.75),
        "mixer.dt_bias": (-7.0, -2.25),
        "i_bias": (-0.25, 0.25),
        "f_bias": (3.0, 6.0),
        "eta_bias": (-0.25, 0.25),
        "theta_bias": (-2.25, -1.75),
        "alpha_bias": (-4.25, -3.75),
        "memory_w1": inner,
        "memory_w2": _even(0.1 / sqrt(config.head_dim)),
        "slot_keys": inner,
        "slot_values": projection,
        "attn_scale": (0.9 * sqrt(config.head_dim), 1.1 * sqrt(config.head_dim)),
        "memory_key_gain": near_one,
        "router": projection,
        "router_bias": (-0.05, 0.05),
        "loop.A_log": (-0.1, 0.1),
        "loop.dt_bias": (0.1, 0.3),
        "loop.B": loop_matrix,
        "loop.C": loop_matrix,
        "lookahead.hidden": projection,
        "lookahead.out": projection,
    }


def _even(deviation: float) -> Range:
    """The range around zero with this standard deviation."""
    half = sqrt(3) * deviation
    return -half, half
