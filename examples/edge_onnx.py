"""An exported model on an edge device: NumPy, onnxruntime and the package tokenizers are all it needs.

    chimera export onnx demo-model edge
    python edge_onnx.py edge "Once upon a time"

A state is a dict of small arrays of constant size, so a talk can be saved, loaded, forked and rewound. Run
without a prompt it shows all four; without a folder it exports the model that comes with chimera first.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

State = dict[str, np.ndarray]


class EdgeModel:
    """The graph, its states and its words. One graph serves any number of talks."""

    def __init__(self, folder: Path, *, num_threads: int = 2) -> None:
        self.contract = json.loads((folder / "state_contract.json").read_text(encoding="utf-8"))
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads
        self.session = ort.InferenceSession(
            folder / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        added = self.tokenizer.get_added_tokens_decoder().values()
        cuts = [f"(?<={re.escape(t.content[0])})(?={re.escape(t.content[1:])})" for t in added if t.special]
        self.inside_names = re.compile("|".join(cuts) or "(?!)")
        self.past = {state["present"]: state["past"] for state in self.contract["states"]}
        self.outputs = ["logits", *self.past]

    def begin(self) -> State:
        """A talk before its first token: every state is zeros."""
        return {
            state["past"]: np.zeros((1, *state["shape"][1:]), state["dtype"])
            for state in self.contract["states"]
        }

    def read(self, state: State, ids: list[int]) -> tuple[np.ndarray, State]:
        """Scores of every word after the last token, and the new state; the old one stays as it is."""
        inputs = {"input_ids": np.array([ids], dtype=np.int64), **state}
        logits, *states = self.session.run(self.outputs, inputs)
        return logits[0, 0], dict(zip(self.past.values(), states, strict=True))

    def encode(self, text: str) -> list[int]:
        """What a user writes is text: a special token's name in it is cut, so that it is no token."""
        found = self.tokenizer.encode_batch(self.inside_names.split(text), add_special_tokens=False)
        return [token for part in found for token in part.ids]


class Talk:
    """A text that grows: its state, and the scores of what may come next."""

    def __init__(
        self, model: EdgeModel, state: State | None = None, logits: np.ndarray | None = None
    ) -> None:
        self.model = model
        self.state = model.begin() if state is None else state
        self.logits = logits
        if state is None:
            self._read([model.contract["end_of_text"]])

    def tell(self, text: str) -> None:
        """Read a text at once."""
        ids = self.model.encode(text)
        if ids:
            self._read(ids)

    def answer(self, *, most: int, temperature: float, seed: int) -> Iterator[int]:
        """Write tokens until the text ends. Rewinding is to keep a `fork` from before."""
        random = np.random.default_rng(seed)
        for _ in range(most):
            token = draw(self.logits, temperature=temperature, random=random)
            self._read([token])
            if token == self.model.contract["end_of_text"]:
                return
            yield token

    def fork(self) -> "Talk":
        """The same talk at the same place. Nothing is copied: a step makes new arrays."""
        return Talk(self.model, dict(self.state), self.logits)

    def save(self, path: Path) -> None:
        """Write the talk to a file, which is whole or not there."""
        unfinished = path.with_suffix(".partial")
        with unfinished.open("wb") as file:
            np.savez(file, digest=self.model.contract["model_digest"], logits=self.logits, **self.state)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)

    @classmethod
    def load(cls, model: EdgeModel, path: Path) -> "Talk":
        """A talk out of a file; one of another model is refused."""
        with np.load(path, allow_pickle=False) as held:
            arrays = dict(held)
        digest, logits = str(arrays.pop("digest")), arrays.pop("logits")
        fits = {name: array.shape for name, array in model.begin().items()}
        if digest != model.contract["model_digest"] or {n: a.shape for n, a in arrays.items()} != fits:
            raise SystemExit(f"{path} is a talk with another model")
        return cls(model, arrays, logits)

    def _read(self, ids: list[int]) -> None:
        self.logits, self.state = self.model.read(self.state, ids)


def draw(logits: np.ndarray, *, temperature: float, random: np.random.Generator) -> int:
    """The best token at temperature 0, else one drawn by its share."""
    if temperature == 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / temperature
    shares = np.exp(scaled - scaled.max())
    return int(random.choice(len(shares), p=shares / shares.sum()))


def show(model: EdgeModel, saved: Path) -> None:
    """Save, load, fork and rewind."""

    def written(talk: Talk, seed: int) -> str:
        return model.tokenizer.decode(list(talk.answer(most=24, temperature=0.7, seed=seed)))

    talk = Talk(model)
    talk.tell("Once upon a time, there was a small cat.")
    before = talk.fork()
    print("written:", first := written(talk, 1))
    before.save(saved)
    print("loaded: ", second := written(Talk.load(model, saved), 1))
    print("rewound:", third := written(before.fork(), 1))
    print("forked: ", written(before.fork(), 2))
    if not first == second == third:
        raise SystemExit("a state did not come back as it was")
    print(f"a state has {sum(array.nbytes for array in talk.state.values()):,} bytes, however long the talk")


def main() -> None:
    parser = argparse.ArgumentParser(description="Run an exported model.")
    parser.add_argument("folder", type=Path, nargs="?", help="what `chimera export onnx` wrote")
    parser.add_argument("prompt", nargs="?", help="the beginning of a text; without it, states are shown")
    parser.add_argument("--state", type=Path, help="a file to go on from, if it is there, and to save to")
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = args.folder or exported(Path(made) / "edge")
        model = EdgeModel(folder, num_threads=args.threads)
        if args.prompt is None:
            show(model, args.state or Path(made) / "talk.npz")
        else:
            tell(model, args)


def exported(folder: Path) -> Path:
    """The model that comes with chimera, where that is installed."""
    found = find_spec("runtime")
    if found is None or found.origin is None:
        raise SystemExit("name a folder that `chimera export onnx` wrote")
    demo = Path(found.origin).parent / "models" / "demo"
    export = [sys.executable, "-m", "runtime.cli.main", "export", "onnx", str(demo), str(folder)]
    subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
    return folder


def tell(model: EdgeModel, args: argparse.Namespace) -> None:
    """Read the prompt and write what follows."""
    kept = args.state is not None and args.state.is_file()
    talk = Talk.load(model, args.state) if kept else Talk(model)
    talk.tell(args.prompt)
    shown, ids = "", []
    for token in talk.answer(most=args.tokens, temperature=args.temperature, seed=args.seed):
        ids.append(token)
        text = model.tokenizer.decode(ids)
        if not text.endswith("\ufffd"):
            sys.stdout.write(text[len(shown) :])
            sys.stdout.flush()
            shown = text
    print()
    if args.state is not None:
        talk.save(args.state)


if __name__ == "__main__":
    main()
