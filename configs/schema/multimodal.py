"""Sections `multimodal` and `byte_level`: other ways in."""

from dataclasses import field
from typing import Annotated, Literal

from configs.schema.keys import QUANTITY, Key
from configs.schema.section import section

Modality = Literal["text", "image", "audio"]


@section
class VisionEncoder:
    """Pictures to vectors."""

    type: Annotated[Literal["gated_deltanet_tiny"], Key("Kind of encoder", "carried")] = "gated_deltanet_tiny"
    depth: Annotated[int, Key("Layers", "planned", unit="layers", low=1, high=256)] = 12
    hidden: Annotated[int, Key("Width", "planned", unit="channels", low=16)] = 384
    patch: Annotated[int, Key("Side of a patch", "planned", unit="pixels", low=1)] = 16
    out: Annotated[
        int | None, Key("Width of the vectors, the model's unless named", "planned", unit="channels", low=16)
    ] = None
    quant: Annotated[Literal["ternary", "none"], Key("Kind of weights", "planned")] = "ternary"


@section
class AudioEncoder:
    """Sound to vectors."""

    type: Annotated[Literal["gated_deltanet_audio_tiny"], Key("Kind of encoder", "carried")] = (
        "gated_deltanet_audio_tiny"
    )
    depth: Annotated[int, Key("Layers", "planned", unit="layers", low=1, high=256)] = 6
    hidden: Annotated[int, Key("Width", "planned", unit="channels", low=16)] = 256
    out: Annotated[
        int | None, Key("Width of the vectors, the model's unless named", "planned", unit="channels", low=16)
    ] = None
    quant: Annotated[Literal["ternary", "none"], Key("Kind of weights", "planned")] = "ternary"


@section
class Multimodal:
    """Pictures and sound beside text."""

    enabled: Annotated[bool, Key("Build the encoders", "planned")] = False
    modalities: Annotated[tuple[Modality, ...], Key("What can be read", "planned")] = ("text",)
    vision: Annotated[VisionEncoder, Key("Pictures", "planned")] = field(default_factory=VisionEncoder)
    audio: Annotated[AudioEncoder, Key("Sound", "planned")] = field(default_factory=AudioEncoder)


@section
class ByteLevel:
    """Bytes instead of tokens."""

    enabled: Annotated[bool, Key("Read and write bytes", "planned")] = False
    encoder_params: Annotated[str, Key("Size of the encoder", "planned", form=QUANTITY)] = "50M"
    encoder_depth: Annotated[int, Key("Layers of the encoder", "planned", unit="layers", low=1, high=256)] = 8
    patching: Annotated[Literal["entropy_threshold"], Key("Where a patch ends", "planned")] = (
        "entropy_threshold"
    )
    decoder_params: Annotated[str, Key("Size of the decoder", "planned", form=QUANTITY)] = "50M"
