"""The weights that a run begins with, where they are not chance: those of a model that was trained before."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from chimera.saving import WEIGHTS_NAME, read_weights
from chimera.train.run_folder import MODEL_NAME
from configs.errors import ModelError, UsageError
from configs.schema.model import ModelConfig
from configs.text.tokenizer import FILES_OF_A_FOLDER, open_tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Initial:
    """A trained model's folder."""

    folder: Path

    @classmethod
    def of(cls, path: Path | str) -> "Initial":
        """The model of a folder, or the one that a run has left in its own."""
        path = Path(path)
        for folder in (path, path / MODEL_NAME):
            if (folder / WEIGHTS_NAME).is_file():
                return cls(folder=folder)
        raise ModelError(
            f"{path} holds no trained model",
            hint=f"Name a folder with config.json and {WEIGHTS_NAME}, or the folder of a run that has ended.",
        )

    def digest(self) -> str:
        """What a run that goes on must find again."""
        with (self.folder / WEIGHTS_NAME).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def check_words(self, tokenizer_digest: str) -> None:
        """Refuse data that was cut into other words than those that the model has learnt."""
        files = [self.folder / name for name in FILES_OF_A_FOLDER if (self.folder / name).is_file()]
        if files and tokenizer_digest not in (open_tokenizer(file).digest for file in files):
            raise UsageError(
                f"{self.folder} was trained with {files[0].name}, the data is cut into words by another one",
                hint=f"Give the texts, with --tokenizer {files[0]}.",
            )

    def weights(self, config: ModelConfig) -> dict[str, Tensor]:
        """The tensors, checked by names and shapes."""
        return read_weights(self.folder / WEIGHTS_NAME, config)
