"""The engine: a packed model, mapped and checked, and streams that run through it.

    engine = Engine.open("model.b158")              a file, or a model's folder
    state = engine.new_state()                      one piece of memory: .copy(), .position, .num_bytes
    engine.prefill(state, ids)                      any number of ids, slice by slice
    engine.step(state, token)                       one token: one call of compiled code by all threads
    engine.logits()                                 scores of the word that follows
    engine.step_together([Part(…), …])              tokens of several streams, and the scores of each

Notable choices:
- config and tensors become one program, a table of operations, when a model is opened; a step runs it and
  Python does nothing in between;
- a prompt's slice is the same program with more tokens, whose recurrences go token by token: reading a text
  at once, in pieces or word by word gives the same bits, with any number of threads;
- weights are read where the file is mapped; they are copied only where another layout was measured to be
  faster on this machine;
- a state's addresses are arguments like others, so streams take turns at the cost of one small addition;
- tokens of several streams stand side by side as those of a prompt do, so weights are read once for all of
  them, and no stream's bits depend on who else is there;
- the head's input stays in buffers of fixed addresses, and what a step ends with can be replaced, for whoever
  knows how to look at fewer words than all.
"""

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from configs.schema.model import ModelConfig
from quant.packing import PackedRows
from quant.pool import Pool
from runtime.arena import POSITION_OFFSET
from runtime.binding import Binding, Ids, Integers, Part
from runtime.building import steps
from runtime.building.foresight import foresees, foresight_of
from runtime.building.laying import lay_out
from runtime.building.loop import controls
from runtime.building.model import add_model, heard_norms
from runtime.building.plan import Plan
from runtime.building.states import check_runnable, state_layout
from runtime.building.tensors import Tensors
from runtime.building.workspace import Int8Rows, Workspace
from runtime.footprint import Footprint
from runtime.heads import Heads
from runtime.heard import Heard
from runtime.model_folder import PackedModel, open_model
from runtime.program import TOKENS_CELL, InState, ProgramBuilder, Step
from runtime.scoring import Scoring
from runtime.sizing import Need
from runtime.state import State
from runtime.step_ids import StepIds, check_streams
from runtime.verified import check_whole
from runtime.visits import Visits
from runtime.worker import run_records

if TYPE_CHECKING:
    from runtime.experts.asked import ExpertsAsked
    from runtime.experts.opened import OpenExperts

Floats: TypeAlias = NDArray[np.float32]

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
        num_streams: int = 1,
        foresight: bool = False,
        experts: "ExpertsAsked | None" = None,
    ) -> None:
        check_streams(num_streams, slice_tokens=slice_tokens)
        check_runnable(model.config)
        self.config: ModelConfig = model.config
        self.digest = model.digest
        """The model's name; states carry it."""
        self.slice_tokens = slice_tokens
        self.num_streams = num_streams
        """How many streams a step may have."""
        self._tensors = Tensors(model)
        self._tensors.put_on_shelf()
        self.experts: OpenExperts | None = None
        """Those that lie on disk: what is in memory of them, and how that went."""
        self.weights_layout = lay_out(
            self._tensors, num_threads=num_threads, memory_limit_bytes=memory_limit_bytes
        )
        """How ternary weights lie in memory, and why."""
        self.layout = state_layout(model.config, self._tensors)
        """Where everything lies in a state, and what streams begin with."""
        # Here and not above, as with experts below: a start without them does not pay for them.
        if model.adapters:
            from runtime.adapting.state import begin_learnt

            begin_learnt(self.layout, model.adapters)
        self._workspace = Workspace(num_rows=slice_tokens)
        self._footprint = Footprint(self._tensors, self._workspace, limit_bytes=memory_limit_bytes)
        self.check_memory(1)
        builder = ProgramBuilder()
        plan = Plan(
            config=model.config,
            tensors=self._tensors,
            layout=self.layout,
            workspace=self._workspace,
            program=builder,
            num_streams=num_streams,
            foresees=foresight,
        )
        outline = add_model(plan)
        self.chosen = tuple(plan.chosen)
        """Where each pass through a layer with experts leaves which of them the last tokens visited."""
        self.foresight = foresight_of(plan) if foresees(plan) else None
        """What the last token's layers, and tokens to come, will want of experts, if it is foreseen."""
        self.delta_gates = tuple(plan.delta_gates)
        """Where layers of the delta rule leave their gates; `runtime.gates` tells what they mean."""
        self.head_rows: PackedRows = outline.embedding
        """The table of embedding and head."""
        hidden = self._workspace.int8("head", model.config.hidden_size, num_rows=num_streams)
        self.hidden: Int8Rows = hidden.row(0)
        """What the head reads of the last token, at addresses that never change."""
        vocab_size = model.config.vocab_size
        self._heads = Heads(self._workspace, rows=self.head_rows, hidden=hidden, vocab_size=vocab_size)
        norms, heard = heard_norms(plan, outline.stream, acts=hidden)
        moves = steps.add_integer(TOKENS_CELL, target=InState(POSITION_OFFSET))
        builder.together(outline.tokens, *norms, moves)
        self._program = builder.build(tokens=outline.tokens, heard=heard)
        self._scoring = Scoring(plan, outline)
        self._ids = StepIds(outline.ids, vocab_size=vocab_size)
        loop = controls(plan)
        self._visits = Visits(model.config, self._workspace, loop)
        self._binding = Binding(
            self._program,
            config=model.config,
            layout=self.layout,
            controls=loop,
            digest=self.digest,
            num_streams=num_streams,
        )
        self.set_head(None)
        self._heard = Heard(hidden)
        self._pool = Pool(run_records, num_threads=num_threads)
        self._footprint.measure_program()
        try:
            if self._tensors.shelf is not None:
                from runtime.experts.opened import open_experts

                left = self._footprint.left_bytes(self.state_bytes())
                opened = open_experts(self._tensors, asked=experts, left_bytes=left, foresight=self.foresight)
                # Their threads hold them, and would go on reading for an engine that nobody closed.
                self._end_experts = weakref.finalize(self, opened.close)
                self._end_experts.atexit = False
                self.experts = self._footprint.experts = opened
            self.check_memory(1)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        num_threads: int | None = None,
        memory_limit_bytes: int | None = None,
        slice_tokens: int = SLICE_TOKENS,
        num_streams: int = 1,
        verify: bool = False,
        foresight: bool = False,
        experts: "ExpertsAsked | None" = None,
    ) -> Self:
        """The engine of a file or a folder. `verify` reads the whole file first and refuses a damaged one.

        With `foresight` the lookahead router runs, though nobody here reads experts ahead.
        """
        model = open_model(path)
        if verify:
            check_whole(Tensors(model).whole_files, anew=True)
        return cls(
            model,
            num_threads=num_threads,
            memory_limit_bytes=memory_limit_bytes,
            slice_tokens=slice_tokens,
            num_streams=num_streams,
            foresight=foresight,
            experts=experts,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads. States stay good for another engine of the same model."""
        self._pool.close()
        if self.experts is not None:
            self._end_experts()
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
    def memory_limit_bytes(self) -> int | None:
        """What this process may take, with all that it runs beside the engine; None is no limit."""
        return self._footprint.limit_bytes

    @property
    def num_bytes(self) -> int:
        """Memory of the mapped files and of all buffers, without states."""
        return self._footprint.num_bytes

    @property
    def buffer_bytes(self) -> int:
        """Memory of all buffers, which streams share, of copied weights, and of experts from disk."""
        return self._footprint.buffer_bytes

    def need(self, rounds: int | None = None) -> Need:
        """Memory that this process takes with one stream of so many rounds, once all of the files was read.

        What the program takes is measured for an engine with a limit, when it has been built.
        """
        return self._footprint.need(self.state_bytes(rounds))

    def check_memory(self, rounds: int | None = None) -> int | None:
        """Refuse a stream of so many rounds under the limit; gives the bytes that are left under it."""
        return self._footprint.check(self.state_bytes(rounds))

    def state_bytes(self, rounds: int | None = None) -> int:
        """The size of a stream's state."""
        return self.layout.num_bytes(self._checked_rounds(rounds))

    def new_state(self, rounds: int | None = None) -> State:
        """A stream before its first token, with room for so many rounds of the loop."""
        rounds = self._checked_rounds(rounds)
        self.check_memory(rounds)
        return State(self.layout.begin(rounds), rounds=rounds, digest=self.digest)

    def step(
        self, state: State, token: int, *, rounds: int | None = None, exit_threshold: float = 0.0
    ) -> None:
        """Read one token, and do what the head does. `rounds` None takes all that the state has room for.

        With `exit_threshold`, a token leaves the loop once a round changes it by less than that share.
        """
        self._ids.lay_one(token)
        self._binding.turn_to_one(state, 1, rounds, exit_threshold)
        self._run([state], heard=[(state, 1)], with_tail=True)

    def prefill(
        self,
        state: State,
        ids: Ids,
        *,
        rounds: int | None = None,
        exit_threshold: float = 0.0,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> None:
        """Read tokens, as `step` would one by one. An interrupt leaves the state behind a whole slice.

        So does `is_cancelled`, which is asked between two slices; the state's position tells how far it is.
        """
        ids_T = self._ids.checked(ids)
        for first in range(0, len(ids_T), self.slice_tokens):
            if first and is_cancelled is not None and is_cancelled():
                return
            self._run_slice(state, ids_T[first : first + self.slice_tokens], rounds, exit_threshold)

    def step_together(self, parts: Sequence[Part | None]) -> Floats:
        """Read tokens of several streams; scores of every word after the last token of each that is heard.

        The place of a part in the list is its own: whoever keeps it saves a little work, and None is a place
        that nobody has. Scores are [heard, vocabulary] in the order of places; the next call overwrites them.
        """
        self._ids.lay_parts(parts, most=self.slice_tokens)
        self._binding.turn_to(parts)
        present = [part for part in parts if part is not None]
        heard = [(part.state, len(part.ids)) for part in present if part.is_heard]
        self._run([part.state for part in present], heard=heard)
        return self._heads.scores_of_all(self._pool, len(heard))

    def logits(self) -> Floats:
        """Scores of every word after the last token [vocabulary]; the next call overwrites them."""
        return self._heads.scores(self._pool)

    def outlook(self, state: State) -> bytes | None:
        """What the head heard of a state's last token, if the call before was that; the next one loses it."""
        return self._heard.outlook(state)

    @property
    def outlook_bytes(self) -> int:
        """The size of an outlook."""
        return self._heard.outlook_bytes

    def recall(self, state: State, outlook: bytes) -> None:
        """Give the head what it had of a state's last token, as if that had been read just now."""
        self._binding.check_state(state, state.rounds)
        self._heads.are_due = True
        self._heard.recall(state, outlook)

    def set_head(self, groups: Sequence[Sequence[Step]] | None) -> None:
        """What every step ends with, in the same call: groups of operations that need nothing of each other.

        None is the full head. They may read `hidden` and `head_rows`; `run_head` runs them after a prefill.
        """
        self._heads.end(self._program, groups)

    def run_head(self) -> None:
        """Do what a step ends with, for the last token that was read."""
        self._pool.run(self._program.job_of_tail)
        self._heads.has_ended()

    def scores(
        self, state: State, ids: Ids, *, rounds: int | None = None, exit_threshold: float = 0.0
    ) -> NDArray[np.float64]:
        """Natural logarithms of the probability of each id but the first, [len(ids) - 1], given those before.

        All ids but the last are read, so a text goes on with a call whose first id is this one's last.
        """
        ids_T = self._ids.checked(ids)
        if len(ids_T) < 2:
            raise UsageError(f"there is nothing to foresee in {len(ids_T)} ids; at least 2 are needed")
        found: list[NDArray[np.float64]] = []
        for first in range(0, len(ids_T) - 1, self._scoring.slice_tokens):
            after = min(first + self._scoring.slice_tokens, len(ids_T) - 1)
            self._run_slice(state, ids_T[first:after], rounds, exit_threshold)
            found.append(self._scoring.log_probs(self._pool, ids_T[first + 1 : after + 1]))
        return np.concatenate(found)

    def log_probs(self, rows_T: Integers, next_T: Integers) -> NDArray[np.float64]:
        """The same for tokens of the last step by their rows, those of several streams side by side."""
        return self._scoring.log_probs_of_rows(self._pool, next_T, rows_T=rows_T)

    def expert_visits(self) -> dict[int, Integers]:
        """How many tokens visited each expert since the model was opened, by layer."""
        return self._visits.of_experts()

    def round_visits(self) -> Integers:
        """How many tokens took each round of the loop since the model was opened."""
        return self._visits.of_rounds()

    def rounds_taken(self, num_tokens: int = 1) -> Integers:
        """Rounds that the last tokens took, of one slice at most."""
        return self._visits.last_rounds(num_tokens, of=self._binding.num_tokens)

    def _run_slice(self, state: State, ids_T: Integers, rounds: int | None, threshold: float) -> None:
        self._binding.turn_to_one(state, len(ids_T), rounds, threshold)
        self._ids.lay(ids_T)
        self._run([state], heard=[(state, len(ids_T))])

    def _run(
        self, states: Sequence[State], *, heard: Sequence[tuple[State, int]], with_tail: bool = False
    ) -> None:
        """One call of the program. Who is heard has read so many tokens more behind it."""
        try:
            self._heads.are_due = True
            self._heard.next(*heard)
            if self.experts is None:
                self._pool.run(self._program.job_with_tail if with_tail else self._program.job)
            else:
                count = self._binding.num_tokens
                self.experts.run(
                    self._pool, self._program, num_tokens=count, with_tail=with_tail, states=states
                )
        except BaseException:
            self._binding.forget()
            self._heard.settle()
            raise
        if with_tail:
            self._heads.has_ended()

    def _checked_rounds(self, rounds: int | None) -> int:
        rounds = self.config.rounds_default if rounds is None else rounds
        if not 1 <= rounds <= self.config.rounds_most:
            raise UsageError(f"{rounds} rounds, but this model takes 1 to {self.config.rounds_most}")
        return rounds
