"""Fine-tuning a packed model by `chimera.finetune.mezo`, as the loop of `chimera finetune` asks for it."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from chimera.cross_entropy import IGNORED
from chimera.finetune.mezo import Mezo, MezoSettings, sequence_losses
from chimera.finetune.noise import Distribution
from chimera.finetune.trained import Trained
from chimera.generation import generate
from chimera.saving import save_model
from configs.errors import AdapterError, UsageError
from configs.schema.model import ModelConfig
from configs.text.template import ChatTemplate
from configs.text.tokenizer import FILES_OF_A_FOLDER, Tokenizer
from exports.b158 import export_b158
from exports.latents import latent_model
from exports.words import SIDE_NAME
from quant.adapter import Adapter, Setting, other_base
from runtime.adapting.drift import check_lengths
from runtime.adapting.learnt import number_told, take_all, told_by, whole_told
from runtime.finetune.method import Item, MethodOptions, OwnOptions
from runtime.model_folder import BUILT_IN_TOKENIZER, TEMPLATE_NAME, TOKENIZER_KEY, open_model
from runtime.turns import end_ids


def _choice(text: str, *, allowed: Sequence[str]) -> str:
    if text not in allowed:
        raise ValueError(f"allowed are {', '.join(allowed)}")
    return text


SETTINGS: Mapping[str, Callable[[str], object]] = {
    "distribution": partial(_choice, allowed=get_args(Distribution)),
    "trained": partial(_choice, allowed=get_args(Trained)),
    "sparse": lambda text: _choice(text, allowed=("yes", "no")) == "yes",
    "sparse_period": int,
}
"""What `--set NAME=VALUE` may say, and how it is read."""
LONGEST = 1.0
"""Of a step, in what a group's weights weigh: so far in one step only what has gone astray goes."""


class TorchMezo:
    """A `runtime.finetune.method.Method` in PyTorch."""

    def __init__(self, options: MethodOptions) -> None:
        self._opened = open_model(options.model)
        if options.adapters or self._opened.adapters:
            raise UsageError(
                "mezo moves latent weights, and knows no adapters beneath them",
                hint="Merge the adapters into a model of its own first: chimera adapter merge.",
            )
        if options.num_threads is not None:
            torch.set_num_threads(options.num_threads)
        self._rounds = options.rounds_of(self._opened.config)
        settings = settings_of(options, self._opened.config)
        # Weights end with the same bits on any device; losses, which the log holds, differ a little.
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = latent_model(options.model).to(self._device)
        self.mezo = Mezo(self._model, settings=settings)
        self.beneath: tuple[str, ...] = ()
        self._path = options.model

    @property
    def base(self) -> str:
        """Digest of the packed model that the latent weights stand for."""
        return self._opened.file.digest

    @property
    def settings(self) -> Mapping[str, Setting]:
        """What a replay has to know beside the seed."""
        held = self.mezo.settings
        told = {field.name: getattr(held, field.name) for field in fields(held) if field.name != "seed"}
        return {**told, "rounds": self._rounds}

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self._words[0]

    @property
    def template(self) -> ChatTemplate | None:
        """How the model reads conversations, if it does."""
        return self._words[1]

    @cached_property
    def _words(self) -> tuple[Tokenizer, ChatTemplate | None]:
        tokenizer = self._opened.tokenizer()
        return tokenizer, self._opened.fitting_template(tokenizer)

    def begin(self, share: float) -> None:
        """Looks go as far at any rate."""

    def look(self, step: int, *, pair: int = 0, side: int) -> None:
        """Stand to one side of the weights along a pair's direction."""
        self.mezo.look(step, pair=pair, side=side)

    def slope(self, above: float, below: float) -> float:
        """g of a pair."""
        return self.mezo.slope(above, below)

    def length(self, wanted: float) -> float:
        """The nearest length as a log holds it; how many units of each group that is, the grid says."""
        return float(np.float32(max(-LONGEST, min(LONGEST, wanted))))

    def apply(self, step: int, lengths: Sequence[float], *, decay: float = 0.0) -> None:
        """End a step."""
        check_lengths(step, lengths, longest=LONGEST)
        self.mezo.apply(step, lengths, decay=decay)

    def losses(self, items: Sequence[Item]) -> NDArray[np.float64]:
        """Each sequence's mean loss. The same sequences together have the same losses, bit for bit."""
        ids_BT, labels_BT = padded(items)
        ids_BT, labels_BT = ids_BT.to(self._device), labels_BT.to(self._device)
        return sequence_losses(self._model, ids_BT, labels_BT, rounds=self._rounds).numpy()

    def answer(self, item: Item, *, max_tokens: int) -> str:
        """What the model says to an item's prompt, the best token each time."""
        ends = end_ids(self.tokenizer, self.template)
        said: list[int] = []
        for token in generate(
            self._model,
            item.ids_T[: item.num_prompt].tolist(),
            max_new_tokens=max_tokens,
            rounds=self._rounds,
        ):
            if token in ends:
                break
            said.append(token)
        return self.tokenizer.decode(said)

    def save(self, folder: Path) -> None:
        """The latent weights as a checkpoint, with the words of the packed model."""
        moved = {held.name for held in self.mezo.tensors}
        learnt = {name: value.cpu() for name, value in self._model.state_dict().items() if name in moved}
        # The others lost their latent weights as they were frozen; the file gives them again.
        save_model(latent_model(self._path, learnt=learnt), folder)
        names = (self._opened.config.files.tokenizer, *FILES_OF_A_FOLDER, SIDE_NAME, TEMPLATE_NAME)
        for name in dict.fromkeys(names):
            source = self._opened.folder / name
            if source.is_file():
                shutil.copyfile(source, folder / name)

    def close(self) -> None:
        """PyTorch ends its threads itself."""


def prepare(options: MethodOptions) -> TorchMezo:
    """What `runtime.finetune.method` asks the module of a method for."""
    return TorchMezo(options)


def options_of(settings: Mapping[str, Setting]) -> OwnOptions:
    """What a log's settings say of its options."""
    told = {name: str(settings[name]) for name in SETTINGS}
    sparse, period = settings["sparse"], whole_told(settings, "sparse_period")
    if not isinstance(sparse, bool):
        raise UsageError(f"sparse is {sparse!r}; true or false is needed")
    own = OwnOptions(
        epsilon=number_told(settings, "epsilon"),
        rounds=whole_told(settings, "rounds"),
        settings=told | {"sparse": "yes" if sparse else "no", "sparse_period": str(period)},
    )
    _settings(seed=0, epsilon=own.epsilon, told=own.settings)
    return own


def merge(adapter: Adapter, *, model: Path, out: Path) -> str:
    """Play a log again on the latent weights of the model that it was learnt on, and pack what comes out."""
    header = adapter.header
    with told_by(adapter):
        own = options_of(header.settings)
    base = open_model(model).file.digest
    if base != header.base:
        raise other_base(adapter.path, header.base, base)
    options = MethodOptions(
        model=model, seed=header.seed, epsilon=own.epsilon, rounds=own.rounds, settings=own.settings
    )
    try:
        method = prepare(options)
    except UsageError as error:
        raise AdapterError(f"{adapter.path} cannot be merged: {error.message}", hint=error.hint) from error
    take_all(adapter, method)
    with TemporaryDirectory(prefix="chimera-") as name:
        folder = Path(name)
        method.save(folder)
        metadata = open_model(model).file.metadata
        is_built_in = metadata.get(TOKENIZER_KEY) == BUILT_IN_TOKENIZER
        return export_b158(folder, out, tokenizer=BUILT_IN_TOKENIZER if is_built_in else None).digest


def settings_of(options: MethodOptions, config: ModelConfig) -> MezoSettings:
    """The method's settings: what was asked for, else what the config says, else what is usual."""
    switches = config.ternary_compute.implemented_optimizations
    told = {"sparse": "yes" if switches.ternary_mezo_sparse.on else "no", **options.settings}
    return _settings(seed=options.seed, epsilon=options.epsilon, told=told)


def _settings(*, seed: int, epsilon: float | None, told: Mapping[str, str]) -> MezoSettings:
    values: dict[str, Any] = {"seed": seed} | ({} if epsilon is None else {"epsilon": epsilon})
    for name, text in told.items():
        if name not in SETTINGS:
            raise UsageError(f"mezo has no setting {name!r}", hint=f"It has: {', '.join(SETTINGS)}.")
        try:
            values[name] = SETTINGS[name](text)
        except ValueError as error:
            raise UsageError(f"{name} is {text!r}: {error}") from None
    return MezoSettings(**values)


def padded(items: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels of some sequences, side by side; what is filled up lies behind and has no label."""
    width = max(len(item.ids_T) for item in items) - 1
    ids_BT = np.zeros((len(items), width), dtype=np.int64)
    labels_BT = np.full((len(items), width), IGNORED, dtype=np.int64)
    for row, item in enumerate(items):
        count = len(item.ids_T) - 1
        ids_BT[row, :count] = item.ids_T[:-1]
        labels_BT[row, :count] = np.where(item.counted_T[1:], item.ids_T[1:], IGNORED)
    return torch.from_numpy(ids_BT), torch.from_numpy(labels_BT)
