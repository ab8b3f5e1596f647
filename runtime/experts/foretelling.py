"""What a prompt foretells: the experts that its answer will want, asked for before its first token.

The classifier lies beside the packed model, where it has been trained; without one nothing is foretold. It is
run once for a prompt, and asks a second time for what the prompt itself has driven out of memory meanwhile.
"""

from collections.abc import Sequence

import numpy as np

from chronos_moe.store.predictors import Wish
from chronos_moe.store.store import ExpertStore
from configs.errors import ModelError
from runtime.engine import Engine


class Foreteller:
    """An engine's classifier and the store that reads what it names."""

    def __init__(self, engine: Engine, store: ExpertStore) -> None:
        """Refuses a classifier of another model, and one that is damaged."""
        # Here and not above: who has no experts on disk starts without it.
        from chronos_moe.intent_file import FILE_NAME, read_intent

        path = store.folder / FILE_NAME
        self._store, self._intent = store, read_intent(path)
        if self._intent.model not in (engine.digest, store.manifest.source):
            raise ModelError(
                f"{path} learnt the routing of the model {self._intent.model[:12]}…, and this is "
                f"{engine.digest[:12]}…",
                hint="Train it on a log of this model: chimera log-experts, chimera train-intent.",
            )
        rows = {layer: row for row, layer in enumerate(engine.config.backbone.moe.layers)}
        self._order = tuple(rows[chosen.layer] for chosen in engine.chosen)
        # Beside what is read ahead there is room for what one token's layer is about to visit.
        self._room = store.slots.num_slots - engine.config.backbone.moe.num_experts_per_tok
        self.wishes: list[Wish] = []
        """What the last prompt foretold, the most worthy first."""

    def foretell(self, ids: Sequence[int]) -> None:
        """Ask for what the answer to a prompt will want, before the prompt is read."""
        from chronos_moe.prefill import prefill_wishes

        scores = self._intent.forecast(np.asarray(ids, dtype=np.int64))
        self.wishes = prefill_wishes(
            scores, usage_LE=self._intent.usage_LE, order=self._order, room=self._room
        )
        self._store.wish(self.wishes)

    def remind(self) -> None:
        """Ask again, when the prompt is read."""
        self._store.wish(self.wishes)


def foreteller_of(engine: Engine) -> Foreteller | None:
    """That of an engine whose experts lie on disk, if a classifier lies beside them."""
    store = None if engine.experts is None else engine.experts.store
    if store is None:
        return None
    from chronos_moe.intent_file import FILE_NAME

    return Foreteller(engine, store) if (store.folder / FILE_NAME).is_file() else None
