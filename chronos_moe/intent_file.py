"""The intent classifier without PyTorch: from a prompt, the experts that its answer will visit.

    x = word[bucket of id] + place
    x = x + Attention(Norm(x));  x = x + W_out ReLU(W_in Norm(x))      each layer, both ways over the prompt
    p = σ(W Norm(mean x))       for each expert, the share of the answer's tokens that will visit it

Ids are hashed into buckets, so that a large vocabulary costs no more than a small one. The forecast only says
what to read early; nothing that a model computes depends on it, so NumPy's own functions do.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chronos_moe.checked_file import read_checked, whole, write_checked
from configs.errors import ModelError, UsageError

Floats = NDArray[np.float32]
KIND, WHAT = "chimera intent 1", "intent classifier"
USAGE = "usage"
MOST = 2**24
"""No size of a classifier is larger, and its depth is far smaller."""
MOST_LAYERS = 64
FILE_NAME = "intent.safetensors"
"""The name that the classifier has in a model's folder."""
NORM_EPS = 1e-6
_SPREAD = 2654435761
"""Knuth's multiplier: neighbouring ids fall into buckets far apart."""
_HINT = "Train it again: chimera train-intent."


@dataclass(frozen=True, kw_only=True, slots=True)
class IntentShape:
    """The sizes of a classifier."""

    num_layers: int
    """Layers of the model that have experts."""
    num_experts: int
    vocab_size: int
    num_buckets: int = 32768
    width: int = 256
    inner_width: int = 1024
    num_heads: int = 4
    depth: int = 2
    max_tokens: int = 512
    """A longer prompt is read from its end."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            most = MOST_LAYERS if name == "depth" else MOST
            if not isinstance(value, int) or not 1 <= value <= most:
                raise UsageError(f"the classifier's {name} is {value!r}; allowed are 1 to {most:,}")
        if self.width % self.num_heads:
            raise UsageError(f"{self.num_heads} heads do not divide the classifier's width {self.width}")

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor by name and shape."""
        D, found = self.width, dict[str, tuple[int, ...]]()
        found["word"], found["place"] = (min(self.num_buckets, self.vocab_size), D), (self.max_tokens, D)
        for layer in range(self.depth):
            found |= {
                f"{layer}.attention_norm": (D,),
                f"{layer}.qkv": (3 * D, D),
                f"{layer}.merge": (D, D),
                f"{layer}.inner_norm": (D,),
                f"{layer}.inner": (self.inner_width, D),
                f"{layer}.outer": (D, self.inner_width),
            }
        outputs = self.num_layers * self.num_experts
        return {**found, "final_norm": (D,), "head": (outputs, D), "head_bias": (outputs,)}

    def buckets(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The bucket of each id; a vocabulary that has room is taken as it is."""
        if self.vocab_size <= self.num_buckets:
            return ids
        return (ids * _SPREAD % 2**32) % self.num_buckets


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Intent:
    """A trained classifier."""

    shape: IntentShape
    layers: tuple[int, ...]
    """The model's layers with experts."""
    model: str
    """The digest of the weights whose routing it learnt."""
    usage_LE: Floats
    """The share of tokens that visited each expert in the text it learnt from: what to fall back on."""
    tensors: Mapping[str, Floats]

    def forecast(self, ids: NDArray[np.int64]) -> Floats:
        """Scores [L, E] in 0 … 1 for the answer to a prompt."""
        if not len(ids):
            return self.usage_LE
        if int(ids.min()) < 0 or int(ids.max()) >= self.shape.vocab_size:
            raise UsageError(
                f"ids from {ids.min()} to {ids.max()}; the classifier knows 0 to {self.shape.vocab_size - 1}"
            )
        kept = ids[-self.shape.max_tokens :].astype(np.int64)
        x_TD = self.tensors["word"][self.shape.buckets(kept)] + self.tensors["place"][: len(kept)]
        for layer in range(self.shape.depth):
            x_TD = self._layer(x_TD, {name: self.tensors[f"{layer}.{name}"] for name in _LAYER})
        pooled_D = _normed(x_TD.mean(axis=0), self.tensors["final_norm"])
        logits = self.tensors["head"] @ pooled_D + self.tensors["head_bias"]
        scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
        return scores.reshape(self.shape.num_layers, self.shape.num_experts)

    def _layer(self, x_TD: Floats, weights: Mapping[str, Floats]) -> Floats:
        H, K = self.shape.num_heads, self.shape.width // self.shape.num_heads
        normed = _normed(x_TD, weights["attention_norm"]) @ weights["qkv"].T
        q, k, v = normed.reshape(len(x_TD), 3, H, K).transpose(1, 2, 0, 3)
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(K)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        x_TD = x_TD + (shares @ v).transpose(1, 0, 2).reshape(len(x_TD), -1) @ weights["merge"].T
        hidden = np.maximum(_normed(x_TD, weights["inner_norm"]) @ weights["inner"].T, 0)
        return x_TD + hidden @ weights["outer"].T


_LAYER = ("attention_norm", "qkv", "merge", "inner_norm", "inner", "outer")


def write_intent(path: Path, intent: Intent) -> None:
    """Write a classifier in half precision, whole or not at all."""
    arrays: dict[str, NDArray[Any]] = {
        name: values.astype(np.float16) for name, values in intent.tensors.items()
    }
    about = {
        "model": intent.model,
        "layers": json.dumps(intent.layers),
        "shape": json.dumps(asdict(intent.shape)),
    }
    write_checked(path, {**arrays, USAGE: intent.usage_LE}, kind=KIND, about=about)


def read_intent(path: Path, *, model: str | None = None) -> Intent:
    """The classifier of a file that is whole and, if `model` is named, learnt that model's routing."""
    about, arrays = read_checked(path, kind=KIND, what=WHAT, hint=_HINT)
    try:
        shape = IntentShape(**json.loads(about["shape"]))
        layers = tuple(whole(layer) for layer in json.loads(about["layers"]))
        learnt_of = about["model"]
    except (KeyError, TypeError, ValueError, UsageError, RecursionError) as error:
        raise ModelError(f"{path} is no {WHAT}: its description cannot be read", hint=_HINT) from error
    wanted = {**shape.tensors(), USAGE: (shape.num_layers, shape.num_experts)}
    if {name: values.shape for name, values in arrays.items()} != wanted or len(layers) != shape.num_layers:
        raise ModelError(f"{path} is no {WHAT}: its arrays are not those of its shape", hint=_HINT)
    if not all(values.dtype.kind == "f" and np.isfinite(values).all() for values in arrays.values()):
        raise ModelError(f"{path} is no {WHAT}: it holds what is no number", hint=_HINT)
    if model is not None and learnt_of != model:
        raise ModelError(
            f"{path} learnt the routing of the model {learnt_of[:12]}…, and this is {model[:12]}…", hint=_HINT
        )
    tensors = {name: values.astype(np.float32) for name, values in arrays.items()}
    return Intent(shape=shape, layers=layers, model=learnt_of, usage_LE=tensors.pop(USAGE), tensors=tensors)


def _normed(x: Floats, gain_D: Floats) -> Floats:
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + NORM_EPS) * gain_D
