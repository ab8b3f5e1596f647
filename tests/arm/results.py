"""Run on a machine of either kind: what its kernels and the shipped model give there, as one JSON object.

python -m tests.arm.results operations NAME... solves every case of operations of the table by the form that
is chosen here; python -m tests.arm.results model writes 200 tokens with the shipped model.
"""

import hashlib
import json
import sys
from pathlib import Path

from quant import cpu
from quant.kernels.table import OPERATIONS
from quant.native import code_of
from runtime.engine import Engine
from runtime.model_folder import open_model
from tests.quant.kernels.digests import digests

DEMO = Path("runtime/models/demo")
PROMPT = "Once upon a time there was"
NUM_TOKENS = 200


def operations(names: list[str]) -> dict[str, object]:
    """Digests by operation, beside the form of each and where its code came from."""
    found = {key.split()[0]: (key.split()[1], digest) for key, digest in digests(names).items()}
    codes = {name: code_of(OPERATIONS[name].forms[cpu.choose(OPERATIONS[name].forms).form]) for name in found}
    return {
        "digests": {name: digest for name, (_, digest) in found.items()},
        "forms": {name: form for name, (form, _) in found.items()},
        "origins": {name: f"{code.origin} {code.reason}" for name, code in codes.items()},
        "cpu": cpu.own_target().name,
    }


def model() -> dict[str, object]:
    """The best words after a prompt, and a digest of all logits and of the state at the end."""
    tokenizer = open_model(DEMO).tokenizer()
    assert tokenizer is not None
    digest, ids = hashlib.sha256(), list[int]()
    with Engine.open(DEMO, num_threads=2) as engine:
        state = engine.new_state()
        engine.prefill(state, tokenizer.encode(PROMPT))
        for _ in range(NUM_TOKENS):
            logits = engine.logits()
            digest.update(logits.tobytes())
            ids.append(int(logits.argmax()))
            engine.step(state, ids[-1])
        digest.update(state.arena.tobytes())
    return {"text": tokenizer.decode(ids), "digest": digest.hexdigest(), "numba": "numba" in sys.modules}


if __name__ == "__main__":
    asked, *rest = sys.argv[1:]
    print(json.dumps(model() if asked == "model" else operations(rest or list(OPERATIONS))))
