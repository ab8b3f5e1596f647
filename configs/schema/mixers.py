"""Sections `gated_deltanet`, `efla`, `xlstm`, `titans` and `attention`: the layers that mix tokens."""

from typing import Annotated, Literal

from configs.schema.keys import NAMES, Key
from configs.schema.section import section

FormulaText = str
WindowBits = Literal[8, 32]
CONV_HIGH = 16


@section
class GatedDeltaNet:
    """The delta rule with a decay gate."""

    formulation: Annotated[FormulaText, Key("The recurrence, for a reader", "carried")] = ""
    alpha_gate: Annotated[Literal["data_dependent_scalar"], Key("Decay gate", "carried")] = (
        "data_dependent_scalar"
    )
    beta_gate: Annotated[Literal["data_dependent_scalar"], Key("Write gate", "carried")] = (
        "data_dependent_scalar"
    )
    state_size: Annotated[
        int | None,
        Key("Keys and values a head, the head size unless named", "works", unit="channels", low=8, high=256),
    ] = None
    chunkwise_parallel: Annotated[bool, Key("Train by chunks, not token by token: always", "planned")] = True
    chunk_size: Annotated[
        int, Key("Tokens of a chunk in training", "works", unit="tokens", low=1, high=4096)
    ] = 64
    key_norm: Annotated[Literal["l2"], Key("Norm of keys and queries", "carried")] = "l2"
    conv_size: Annotated[
        int,
        Key(
            "Taps of the causal convolution on queries, keys and values",
            "works",
            unit="tokens",
            low=2,
            high=CONV_HIGH,
        ),
    ] = 4
    use_output_gate: Annotated[bool, Key("Gate the output by a fifth projection", "works")] = False


@section
class Efla:
    """The delta rule's exact flow."""

    enabled: Annotated[bool, Key("Use it in the layers named", "works")] = False
    target_layers: Annotated[str, Key("Aliases of the layers that use it", "works", form=NAMES)] = "SK"


@section
class Xlstm:
    """The matrix LSTM."""

    variant: Annotated[Literal["mLSTM"], Key("Kind of xLSTM", "carried")] = "mLSTM"
    exponential_gating: Annotated[bool, Key("Exponential input gate; a sigmoid one otherwise", "works")] = (
        True
    )
    memory_size_per_head: Annotated[
        tuple[int, int] | None,
        Key("Values and keys a head, the head size unless named", "works", unit="channels", low=8, high=256),
    ] = None
    covariance_update: Annotated[bool, Key("Write v kᵀ", "carried")] = True
    normalizer_state: Annotated[
        Literal["max_stabilized"], Key("How the normaliser is kept in range", "carried")
    ] = "max_stabilized"
    chunk_size: Annotated[
        int, Key("Tokens of a chunk in training", "works", unit="tokens", low=1, high=4096)
    ] = 64
    conv_size: Annotated[
        int,
        Key(
            "Taps of the causal convolution before queries and keys",
            "works",
            unit="tokens",
            low=2,
            high=CONV_HIGH,
        ),
    ] = 4
    use_output_gate: Annotated[bool, Key("Gate the output by a fifth projection", "works")] = False


@section
class Titans:
    """Memory as context: a small network that learns while it reads, beside a window of attention."""

    memory_type: Annotated[Literal["MAC"], Key("How memory and attention are wired", "carried")] = "MAC"
    memory_depth: Annotated[Literal[2], Key("Layers of the memory network", "carried", unit="layers")] = 2
    surprise_metric: Annotated[Literal["gradient_with_momentum"], Key("What is written", "carried")] = (
        "gradient_with_momentum"
    )
    surprise_formula: Annotated[FormulaText, Key("The momentum, for a reader", "carried")] = ""
    forgetting_formula: Annotated[FormulaText, Key("The forgetting, for a reader", "carried")] = ""
    persistent_memory_slots: Annotated[
        int, Key("Learned keys and values that are always in view", "works", unit="slots", low=0, high=4096)
    ] = 64
    local_window_size: Annotated[
        int,
        Key(
            "Tokens in view of the attention, the current one among them",
            "works",
            unit="tokens",
            low=1,
            high=65536,
        ),
    ] = 1024
    window_bits: Annotated[
        WindowBits,
        Key(
            "Bits of the window's keys and values: int8 with a scale a token and head, or floats",
            "works",
            unit="bits",
        ),
    ] = 8
    memory_chunk: Annotated[
        int,
        Key(
            "Tokens between two refreshes of the memory that is read",
            "works",
            unit="tokens",
            low=1,
            high=4096,
        ),
    ] = 64
    conv_size: Annotated[
        int,
        Key(
            "Taps of the causal convolution on queries, keys and values",
            "works",
            unit="tokens",
            low=2,
            high=CONV_HIGH,
        ),
    ] = 4
    rope_theta: Annotated[float, Key("Base of the rotation inside the window", "works", low=1.0)] = 10_000.0


@section
class Attention:
    """The attention layers `gqa`, `swa` and `mla` of the transformer systems."""

    num_key_value_heads: Annotated[
        int | None, Key("Heads of keys and values, all heads unless named", "works", unit="heads", low=1)
    ] = None
    window_size: Annotated[int, Key("Tokens in view of a `swa` layer", "works", unit="tokens", low=1)] = 1024
    latent_size: Annotated[
        int, Key("Width of the compressed keys and values of an `mla` layer", "works", unit="channels", low=8)
    ] = 512
    rope_size: Annotated[
        int, Key("Rotated channels a head of an `mla` layer", "works", unit="channels", low=2)
    ] = 32
    rope_theta: Annotated[float, Key("Base of the rotation", "planned", low=1.0)] = 10_000.0
