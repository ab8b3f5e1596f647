"""The plan for a model on this machine, before the model is made or loaded: what `chimera plan` prints.

Memory is counted, and the engine's own buffers and state are asked of the engine; speed is what that engine
does with stand-in weights, if there is memory for them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from configs import accounting
from configs.errors import UsageError
from configs.load import PRESETS, load_config, preset, to_json
from configs.schema.model import ModelConfig
from configs.schema.quantization import EmbeddingBits
from quant.container_format import header_bytes, stored_parts
from quant.kernels.table import OPERATIONS
from quant.pool import Pool
from runtime import system
from runtime.engine import Engine
from runtime.machine import Speeds, measure_speeds
from runtime.model_folder import CONFIG_NAME, PACKED_SUFFIX, find_weights, open_model
from runtime.packed_specs import packed_specs, with_embedding_bits
from runtime.rehearsal import Pace, Rehearsal, rehearse
from runtime.stand_in import StandIn
