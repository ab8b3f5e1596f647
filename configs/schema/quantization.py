"""Section `quantization`: how weights and activations become integers."""

from dataclasses import field
from typing import Annotated, Literal

from configs.schema.keys import Key
from configs.schema.section import section

WeightScale = Literal["absmean_per_group", "absmean_per_row", "absmean_per_tensor"]
ActivationMethod = Literal["absmax_per_block", "absmax_per_token"]
EmbeddingBits = Literal[8, 4, 2]


@section
class Sherry:
    """Three of every four weights kept: 1.25 bits a weight."""

    enabled: Annotated[bool, Key("Train and store weights with one zero in every four", "works")] = False
    bits: Annotated[float, Key("Bits a weight in that form", "carried", unit="bits", low=1.25, high=1.25)] = (
        1.25
    )


@section
class HybridGatedFlow:
    """A gated low-rank correction beside each ternary linear but those of routed experts."""

    enabled: Annotated[bool, Key("Add the correction", "works")] = False
    rank: Annotated[int, Key("Rank of the correction", "works", low=1, high=1024)] = 24


@section
class Quantization:
    """How weights and activations become integers."""

    method: Annotated[Literal["bitnet"], Key("Family of the quantiser", "carried")] = "bitnet"
    linear_class: Annotated[
        Literal["ternary_bitplane"], Key("Name of the linear layer in other programs", "carried")
    ] = "ternary_bitplane"
    weight_bits: Annotated[
        float, Key("Information in a ternary weight", "carried", unit="bits", low=1.58, high=1.6)
    ] = 1.58
    weight_values: Annotated[
        tuple[Literal[-1], Literal[0], Literal[1]], Key("Values that a weight can take", "carried")
    ] = (-1, 0, 1)
    weight_scale: Annotated[WeightScale, Key("What shares one weight scale", "works")] = "absmean_per_group"
    group_size: Annotated[
        int,
        Key(
            "Inputs that share a weight scale; the last group may be short",
            "works",
            unit="inputs",
            low=128,
            high=4096,
        ),
    ] = 128
    activation_bits: Annotated[Literal[8], Key("Bits of a quantised activation", "carried", unit="bits")] = 8
    activation_method: Annotated[ActivationMethod, Key("What shares one activation scale", "works")] = (
        "absmax_per_block"
    )
    activation_block_size: Annotated[
        int, Key("Inputs that share an activation scale", "carried", unit="inputs", low=64, high=64)
    ] = 64
    accumulator_dtype: Annotated[Literal["int32"], Key("Type of the sums inside a block", "carried")] = (
        "int32"
    )
    norm_dtype: Annotated[Literal["float32"], Key("Type of the norms", "carried")] = "float32"
    runtime_kernel: Annotated[
        str, Key("Kernel that other programs would use; ours is chosen by the CPU", "carried")
    ] = "T32"
    embedding_bits: Annotated[
        EmbeddingBits, Key("Bits of the tied embedding and head, one scale a row", "works", unit="bits")
    ] = 8
    sherry_mode: Annotated[Sherry, Key("1.25-bit weights", "works")] = field(default_factory=Sherry)
    hgf_correction: Annotated[HybridGatedFlow, Key("Low-rank correction", "works")] = field(
        default_factory=HybridGatedFlow
    )
