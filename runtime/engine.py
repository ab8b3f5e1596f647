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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from configs.inventory import layers
from configs.schema.model import ModelConfig
from quant.packing import PackedRows
from quant.pool import Pool
from runtime.arena import POSITION_OFFSET
from runtime.binding import Binding, Ids, Integers, Part
from runtime.building import steps
from runtime.building.experts import counted_name
from runtime.building.foresight import foresees, foresight_of
from runtime.building.laying import lay_out
from runtime.building.loop import controls
from runtime.building.model import add_model, heard_norms
from runtime.building.plan import Plan
from runtime.building.states import check_runnable, state_layout
from runtime.building.tensors import Tensors
from runtime.building.workspace import Int8Rows, Workspace
from runtime.model_folder import PackedModel, open_model
from runtime.program import TOKENS, TOKENS_CELL, Count, InState, Program, ProgramBuilder, Step
from runtime.scoring import Scoring
from runtime.sizing import Need, check_fits
from runtime.state import State
from runtime.system import bytes_beside
from runtime.verified import check_whole
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
        if not 1 <= num_streams <= slice_tokens:
            raise UsageError(
                f"{num_streams} streams in slices of {slice_tokens} tokens; a slice has one token at least, "
                "and one for each stream"
            )
        check_runnable(model.config)
        self.config: ModelConfig = model.config
        self.digest = model.digest
        """The model's name; states carry it."""
        self.slice_tokens = slice_tokens
        self.memory_limit_bytes = memory_limit_bytes
        """What this process may take, with all that it runs beside the engine; None is no limit."""
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
        self._program_bytes = self._beside_files()
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
        self._hidden = self._workspace.int8("head", model.config.hidden_size, num_rows=num_streams)
        self.hidden: Int8Rows = self._hidden.row(0)
        """What the head reads of the last token, at addresses that never change."""
        self._all_logits = self._workspace.rows("head.logits", model.config.vocab_size, num_rows=num_streams)
        norms, heard = heard_norms(plan, outline.stream, acts=self._hidden)
        builder.together(
            outline.tokens, *norms, steps.add_integer(TOKENS_CELL, target=InState(POSITION_OFFSET))
        )
        self._program = builder.build(tokens=outline.tokens, heard=heard)
        self._scoring = Scoring(plan, outline)
        self._ids, self._controls = outline.ids, controls(plan)
        self._binding = Binding(
            self._program,
            config=model.config,
            layout=self.layout,
            controls=self._controls,
            digest=self.digest,
            num_streams=num_streams,
        )
        self._one = Count(cell=np.ones(1, dtype=np.int64))
        self._full_head = steps.head_product(
            self.head_rows, acts=self.hidden, y=self._all_logits, num_tokens=1
        )
        self._head_program = Program([(self._one, (self._full_head,))], tokens=self._one)
        self._heads_program = self._program_of_heads()
        self.set_head(None)
        self._heard: list[weakref.ref[State]] = []
        self._pool = Pool(run_records, num_threads=num_threads)
        self._program_bytes = self._beside_files()
        try:
            if self._tensors.shelf is not None:
                from runtime.experts.opened import open_experts

                opened = open_experts(
                    self._tensors, asked=experts, left_bytes=self._left_bytes(), foresight=self.foresight
                )
                # Their threads hold them, and would go on reading for an engine that nobody closed.
                self._end_experts = weakref.finalize(self, opened.close)
                self._end_experts.atexit = False
                self.experts = opened
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
    def num_bytes(self) -> int:
        """Memory of the mapped files and of all buffers, without states."""
        return sum(file.path.stat().st_size for file in self._tensors.files) + self.buffer_bytes

    @property
    def buffer_bytes(self) -> int:
        """Memory of all buffers, which streams share, of copied weights, and of experts from disk."""
        experts = 0 if self.experts is None else self.experts.num_bytes
        return self._workspace.num_bytes + self._tensors.laid_bytes + experts

    def need(self, rounds: int | None = None) -> Need:
        """Memory that this process takes with one stream of so many rounds, once all of the files was read.

        What the program takes is measured for an engine with a limit, when it has been built.
        """
        return Need(
            files_bytes=sum(file.path.stat().st_size for file in self._tensors.files),
            state_bytes=self.state_bytes(rounds),
            streams=1,
            buffer_bytes=self.buffer_bytes,
            program_bytes=self._program_bytes,
        )

    def check_memory(self, rounds: int | None = None) -> int | None:
        """Refuse a stream of so many rounds under the limit; gives the bytes that are left under it."""
        limit = self.memory_limit_bytes
        return None if limit is None else check_fits(self.need(rounds), limit_bytes=limit)

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
        if not 0 <= token < self.config.vocab_size:
            self._refuse_ids(token, token)
        self._heard = [weakref.ref(state)]
        self._binding.turn_to_one(state, 1, rounds, exit_threshold)
        self._ids[0] = token
        self._logits_are_due = not self._has_full_head
        self._run([state], with_tail=True)

    def prefill(
        self, state: State, ids: Ids, *, rounds: int | None = None, exit_threshold: float = 0.0
    ) -> None:
        """Read tokens, as `step` would one by one. An interrupt leaves the state behind a whole slice."""
        ids_T = self._checked_ids(ids)
        for first in range(0, len(ids_T), self.slice_tokens):
            self._run_slice(state, ids_T[first : first + self.slice_tokens], rounds, exit_threshold)

    def step_together(self, parts: Sequence[Part | None]) -> Floats:
        """Read tokens of several streams; scores of every word after the last token of each that is heard.

        The place of a part in the list is its own: whoever keeps it saves a little work, and None is a place
        that nobody has. Scores are [heard, vocabulary] in the order of places; the next call overwrites them.
        """
        total = 0
        for part in parts:
            if part is not None:
                count = len(part.ids)
                if not 0 < count <= self.slice_tokens - total:
                    raise UsageError(
                        f"{total + count} tokens in a step, {count} of one stream; at least 1 of each and "
                        f"{self.slice_tokens} together are allowed"
                    )
                self._ids[total : total + count] = part.ids
                total += count
        if not total:
            raise UsageError("a step without a stream reads nothing")
        read = self._ids[:total]
        if not 0 <= int(read.min()) <= int(read.max()) < self.config.vocab_size:
            self._refuse_ids(int(read.min()), int(read.max()))
        self._binding.turn_to(parts)
        heard = [part.state for part in parts if part is not None and part.is_heard]
        self._heard = [weakref.ref(state) for state in heard]
        self._logits_are_due = True
        self._run([part.state for part in parts if part is not None])
        if heard:
            self._heads_program.set_tokens(len(heard))
            self._pool.run(self._heads_program.job)
            self._logits_are_due = False
        return self._all_logits.array[: len(heard), : self.config.vocab_size]

    def logits(self) -> Floats:
        """Scores of every word after the last token [vocabulary]; the next call overwrites them."""
        if self._logits_are_due:
            self._pool.run(self._head_program.job)
            self._logits_are_due = False
        return self._all_logits.array[0, : self.config.vocab_size]

    def outlook(self, state: State) -> bytes | None:
        """What the head heard of a state's last token, if the call before was that; the next one loses it."""
        found = next((number for number, last in enumerate(self._heard) if last() is state), None)
        if found is None:
            return None
        return b"".join(part.tobytes() for part in _arrays(self._hidden.row(found)))

    @property
    def outlook_bytes(self) -> int:
        """The size of an outlook."""
        return sum(part.nbytes for part in _arrays(self.hidden))

    def recall(self, state: State, outlook: bytes) -> None:
        """Give the head what it had of a state's last token, as if that had been read just now."""
        self._binding.check_state(state, state.rounds)
        if len(outlook) != self.outlook_bytes:
            raise UsageError(f"an outlook of {len(outlook)} bytes; this model's have {self.outlook_bytes}")
        self._heard = [weakref.ref(state)]
        self._logits_are_due = True
        begin = 0
        for part in _arrays(self.hidden):
            part[...] = np.frombuffer(outlook, part.dtype, part.size, begin).reshape(part.shape)
            begin += part.nbytes

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

    def log_probs(self, rows_T: Integers, next_T: Integers) -> NDArray[np.float64]:
        """The same for tokens of the last step by their rows, those of several streams side by side."""
        most = self._scoring.slice_tokens
        found = [
            self._scoring.log_probs(self._pool, next_T[at : at + most], rows_T=rows_T[at : at + most])
            for at in range(0, len(next_T), most)
        ]
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
        last = self._binding.num_tokens
        return self._controls.taken_T[max(0, last - num_tokens) : last].copy()

    def _run_slice(self, state: State, ids_T: Integers, rounds: int | None, threshold: float) -> None:
        self._heard = [weakref.ref(state)]
        self._binding.turn_to_one(state, len(ids_T), rounds, threshold)
        self._ids[: len(ids_T)] = ids_T
        self._logits_are_due = True
        self._run([state])

    def _run(self, states: Sequence[State], *, with_tail: bool = False) -> None:
        """One call of the program, by whoever brings it its experts if those lie on disk."""
        if self.experts is None:
            self._pool.run(self._program.job_with_tail if with_tail else self._program.job)
            return
        try:
            self.experts.run(
                self._pool,
                self._program,
                num_tokens=self._binding.num_tokens,
                with_tail=with_tail,
                states=states,
            )
        except BaseException:
            self._binding.forget()
            raise

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

    def _left_bytes(self) -> int | None:
        """What the limit leaves for experts from disk."""
        limit = self.memory_limit_bytes
        return None if limit is None else limit - self.need().total_bytes

    def _beside_files(self) -> int:
        """Memory of this process without the model's files; it is read where there is a limit."""
        if self.memory_limit_bytes is None:
            return 0
        return bytes_beside(file.path for file in self._tensors.files)

    def _program_of_heads(self) -> Program:
        """The full head for every token that is heard."""
        cells = self._workspace.array("heads", (1,), np.int64)
        heads = Count(cell=cells)
        builder = ProgramBuilder()
        builder.together(
            heads,
            steps.head_product(self.head_rows, acts=self._hidden, y=self._all_logits, num_tokens=TOKENS),
        )
        return builder.build(tokens=heads)


def _arrays(hidden: Int8Rows) -> tuple[NDArray[Any], ...]:
    return hidden.codes, hidden.scales, hidden.neg_sums
