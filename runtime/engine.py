"""The engine: a packed model, mapped and checked, and streams that run through it.

    engine = Engine.open("model.b158")              a file, or a model's folder
    state = engine.new_state()                      one piece of memory: .copy(), .position, .num_bytes
    engine.prefill(state, ids)                      any number of ids, slice by slice
    engine.step(state, token)                       one token: one call of compiled code by all threads
    engine.logits()                                 scores of the word that follows

Notable choices:
- config and tensors become one program, a table of operations, when a model is opened; a step runs it and
  Python does nothing in between;
- a prompt's slice is the same program with more tokens, whose recurrences go token by token: reading a text
  at once, in pieces or word by word gives the same bits, with any number of threads;
- weights are never copied: they are read where the file is mapped;
- a state's addresses are arguments like others, so streams take turns at the cost of one small addition;
- the head's input stays in buffers of fixed addresses, and what a step ends with can be replaced, for whoever
  knows how to look at fewer words than all.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from configs.errors import NotEnoughMemory, UsageError
from configs.inventory import layers
from configs.schema.model import ModelConfig
from quant.packing import PackedRows
from quant.pool import Pool
from runtime.arena import POSITION_OFFSET
from runtime.building import steps
from runtime.building.experts import counted_name
from runtime.building.loop import controls
from runtime.building.model import add_model, final_norm
from runtime.building.plan import Plan
from runtime.building.states import check_runnable, state_layout
from runtime.building.tensors import Tensors
from runtime.building.workspace import Int8Rows, Workspace
from runtime.model_folder import PackedModel, open_model
from runtime.program import Count, InState, Program, ProgramBuilder, Step
from runtime.scoring import Scoring
from runtime.state import State
from runtime.verified import check_whole
from runtime.worker import run_records

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]
Ids: TypeAlias = Sequence[int] | Integers

UNBOUND = (0, 0, "", 0, 0, 0.0)
"""What the program is turned to before it is turned to anything."""
SLICE_TOKENS = 64
"""Tokens of a prompt that go through the layers together. An interrupt comes between two slices."""


class Engine:
    """A model that runs. One thread of the caller's uses it at a time."""

    def __init__(
        self,
        model: PackedModel,
        *,
        num_threads: int | None = None,
        memory_limit_bytes: int | None = None,
        slice_tokens: int = SLICE_TOKENS,
    ) -> None:
        if slice_tokens < 1:
            raise UsageError(f"a slice has at least one token, got {slice_tokens}")
        check_runnable(model.config)
        self.config: ModelConfig = model.config
        self.digest = model.file.digest
        """The model's name; states carry it."""
        self.slice_tokens = slice_tokens
        self._limit = memory_limit_bytes
        self._tensors = Tensors(model)
        self.layout = state_layout(model.config, self._tensors)
        """Where everything lies in a state."""
        self._check_memory(buffer_bytes=0, state_bytes=self.layout.num_bytes(1))
        self._workspace = Workspace(num_rows=slice_tokens)
        builder = ProgramBuilder()
        plan = Plan(
            config=model.config,
            tensors=self._tensors,
            layout=self.layout,
            workspace=self._workspace,
            program=builder,
        )
        outline = add_model(plan)
        self.head_rows: PackedRows = outline.embedding
        """The table of embedding and head."""
        self.hidden: Int8Rows = self._workspace.int8("head", model.config.hidden_size, num_rows=1)
        """What the head reads of the last token, at addresses that never change."""
        self._all_logits = self._workspace.rows("head.logits", model.config.vocab_size, num_rows=1)
        builder.together(
            outline.tokens,
            final_norm(plan, outline.stream, acts=self.hidden, last_alone=True),
            steps.add_integer(outline.tokens.address, target=InState(POSITION_OFFSET)),
        )
        self._program = builder.build(tokens=outline.tokens)
        self._scoring = Scoring(plan, outline)
        self._ids, self._controls = outline.ids, controls(plan)
        self._one = Count(cell=np.ones(1, dtype=np.int64))
        self._full_head = steps.head_product(
            self.head_rows, acts=self.hidden, y=self._all_logits, num_tokens=1
        )
        self._head_program = Program([(self._one, (self._full_head,))], tokens=self._one)
        self.set_head(None)
        self._bound = UNBOUND
        self._last_tokens = 0
        self._check_memory(buffer_bytes=self._workspace.num_bytes, state_bytes=self.layout.num_bytes(1))
        self._pool = Pool(run_records, num_threads=num_threads)

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        num_threads: int | None = None,
        memory_limit_bytes: int | None = None,
        slice_tokens: int = SLICE_TOKENS,
        verify: bool = False,
    ) -> Self:
        """The engine of a file or a folder. `verify` reads the whole file first and refuses a damaged one."""
        model = open_model(path)
        if verify:
            check_whole(Tensors(model).files, anew=True)
        return cls(
            model, num_threads=num_threads, memory_limit_bytes=memory_limit_bytes, slice_tokens=slice_tokens
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads. States stay good for another engine of the same model."""
        self._pool.close()
        self._tensors.close()

    @property
    def num_threads(self) -> int:
        return self._pool.num_threads

    @property
    def usable_threads(self) -> int:
        """How many threads the next step gets; fewer while another process takes cores."""
        return self._pool.usable_threads

    @property
    def pool(self) -> Pool:
        """The threads, for a measurement beside the model: no other threads fare as they do."""
        return self._pool

    @property
    def num_bytes(self) -> int:
        """Memory of the mapped files and of all buffers, without states."""
        return sum(file.path.stat().st_size for file in self._tensors.files) + self._workspace.num_bytes

    @property
    def buffer_bytes(self) -> int:
        """Memory of all buffers, which streams share."""
        return self._workspace.num_bytes

    def state_bytes(self, rounds: int | None = None) -> int:
        """The size of a stream's state."""
        return self.layout.num_bytes(self._checked_rounds(rounds))

    def new_state(self, rounds: int | None = None) -> State:
        """A stream before its first token, with room for so many rounds of the loop."""
        rounds = self._checked_rounds(rounds)
        buffers, state_bytes = self._workspace.num_bytes, self.layout.num_bytes(rounds)
        self._check_memory(buffer_bytes=buffers, state_bytes=state_bytes)
        return State(self.layout.begin(rounds), rounds=rounds, digest=self.digest)

    def step(
        self, state: State, token: int, *, rounds: int | None = None, exit_threshold: float = 0.0
    ) -> None:
        """Read one token, and do what the head does. `rounds` None takes all that the state has room for.

        With `exit_threshold`, a token leaves the loop once a round changes it by less than that share.
        """
        if not 0 <= token < self.config.vocab_size:
            self._refuse_ids(token, token)
        self._bind(state, 1, rounds, exit_threshold)
        self._ids[0] = token
        self._logits_are_due = not self._has_full_head
        self._pool.run(self._program.job_with_tail)

    def prefill(
        self, state: State, ids: Ids, *, rounds: int | None = None, exit_threshold: float = 0.0
    ) -> None:
        """Read tokens, as `step` would one by one. An interrupt leaves the state behind a whole slice."""
        ids_T = self._checked_ids(ids)
        for first in range(0, len(ids_T), self.slice_tokens):
            self._run_slice(state, ids_T[first : first + self.slice_tokens], rounds, exit_threshold)

    def logits(self) -> Floats:
        """Scores of every word after the last token [vocabulary]; the next call overwrites them."""
        if self._logits_are_due:
            self._pool.run(self._head_program.job)
            self._logits_are_due = False
        return self._all_logits.array[0, : self.config.vocab_size]

    def set_head(self, groups: Sequence[Sequence[Step]] | None) -> None:
        """What every step ends with, in the same call: groups of operations that need nothing of each other.

        None is the full head. They may read `hidden` and `head_rows`; `run_head` runs them after a prefill.
        """
        self._has_full_head = groups is None
        chosen = ((self._full_head,),) if groups is None else tuple(tuple(group) for group in groups)
        self._program.set_tail([(self._one, group) for group in chosen if group])
        self._logits_are_due = True

    def run_head(self) -> None:
        """Do what a step ends with, for the last token that was read."""
        self._pool.run(self._program.job_of_tail)
        if self._has_full_head:
            self._logits_are_due = False

    def scores(
        self, state: State, ids: Ids, *, rounds: int | None = None, exit_threshold: float = 0.0
    ) -> NDArray[np.float64]:
        """Natural logarithms of the probability of each id but the first, [len(ids) - 1], given those before.

        All ids but the last are read, so a text goes on with a call whose first id is this one's last.
        """
        ids_T = self._checked_ids(ids)
        if len(ids_T) < 2:
            raise UsageError(f"there is nothing to foresee in {len(ids_T)} ids; at least 2 are needed")
        found: list[NDArray[np.float64]] = []
        for first in range(0, len(ids_T) - 1, self._scoring.slice_tokens):
            after = min(first + self._scoring.slice_tokens, len(ids_T) - 1)
            self._run_slice(state, ids_T[first:after], rounds, exit_threshold)
            found.append(self._scoring.log_probs(self._pool, ids_T[first + 1 : after + 1]))
        return np.concatenate(found)

    def expert_visits(self) -> dict[int, Integers]:
        """How many tokens visited each expert since the model was opened, by layer."""
        moe = self.config.backbone.moe
        return {
            layer.index: self._workspace.array(
                counted_name(layer.index), (moe.n_routed_experts,), np.int64
            ).copy()
            for layer in layers(self.config)
            if layer.experts
        }

    def round_visits(self) -> Integers:
        """How many tokens took each round of the loop since the model was opened."""
        return self._controls.totals.copy()

    def rounds_taken(self, num_tokens: int = 1) -> Integers:
        """Rounds that the last tokens took, of one slice at most."""
        last = self._last_tokens
        return self._controls.taken_T[max(0, last - num_tokens) : last].copy()

    def _run_slice(self, state: State, ids_T: Integers, rounds: int | None, threshold: float) -> None:
        self._bind(state, len(ids_T), rounds, threshold)
        self._ids[: len(ids_T)] = ids_T
        self._logits_are_due = True
        self._pool.run(self._program.job)

    def _bind(self, state: State, num_tokens: int, rounds: int | None, threshold: float) -> None:
        """Turn the program to a stream and a number of tokens; mostly they are those of the call before."""
        rounds = state.rounds if rounds is None else rounds
        wanted = (state.address, state.rounds, state.digest, num_tokens, rounds, threshold)
        if wanted == self._bound:
            return
        self._check_state(state, rounds)
        if not 0 <= threshold <= 1:
            raise UsageError(f"exit threshold {threshold}; allowed are 0, which is never, to 1")
        self._bound = UNBOUND  # an interrupt may come before all is set
        self._program.set_state(state.address)
        self._program.set_tokens(num_tokens)
        self._last_tokens = num_tokens
        self._controls.rounds[0], self._controls.threshold[0] = rounds, steps.bits_of(threshold)
        self._bound = wanted

    def _check_state(self, state: State, rounds: int) -> None:
        """Refuse a state that is not of this model, or has no room for so many rounds."""
        if state.digest != self.digest:
            raise UsageError(
                f"the state is of the model {state.digest[:16]}…, this one is {self.digest[:16]}…",
                hint="A state is good for the model that made it.",
            )
        if not 1 <= rounds <= state.rounds:
            raise UsageError(
                f"{rounds} rounds, but this state takes 1 to {state.rounds}",
                hint=f"Ask new_state for more; the model takes 1 to {self.config.rounds_most}.",
            )
        if state.rounds > self.layout.rounds or state.num_bytes != self.layout.num_bytes(state.rounds):
            raise UsageError(
                f"a state of {state.rounds} rounds and {state.num_bytes} bytes is not this model's",
                hint="A state's memory is copied whole or not at all.",
            )

    def _checked_rounds(self, rounds: int | None) -> int:
        rounds = self.config.rounds_default if rounds is None else rounds
        if not 1 <= rounds <= self.config.rounds_most:
            raise UsageError(f"{rounds} rounds, but this model takes 1 to {self.config.rounds_most}")
        return rounds

    def _checked_ids(self, ids: Ids) -> Integers:
        given = np.asarray(ids)
        if given.size and (given.ndim != 1 or given.dtype.kind not in "iu"):
            raise UsageError(f"ids must be whole numbers in a row, got {given.dtype} {given.shape}")
        if given.size and not 0 <= int(given.min()) <= int(given.max()) < self.config.vocab_size:
            self._refuse_ids(int(given.min()), int(given.max()))
        return given.astype(np.int64)

    def _refuse_ids(self, least: int, most: int) -> None:
        raise UsageError(
            f"ids from {least} to {most}, but the vocabulary holds 0 to {self.config.vocab_size - 1}",
            hint="The text was encoded with the tokenizer of another model.",
        )

    def _check_memory(self, *, buffer_bytes: int, state_bytes: int) -> None:
        if self._limit is None:
            return
        files = sum(file.path.stat().st_size for file in self._tensors.files)
        needed = files + buffer_bytes + state_bytes
        if needed > self._limit:
            raise NotEnoughMemory(
                f"the model needs {needed:,} bytes: files {files:,}, buffers {buffer_bytes:,}, a state "
                f"{state_bytes:,}; the limit is {self._limit:,}",
                hint="Raise the limit, take fewer rounds, or take a smaller model.",
            )
