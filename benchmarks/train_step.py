"""Tokens a second of a training step, by kind of layer, beside a transformer of equal size in the same run.

    python -m benchmarks.train_step [--rows 16] [--tokens 2048] [--arms gd,hybrid] [--steps 10] [--json PATH]
                                    [--batches 4] [--profile]

Each arm has about 47 M parameters: 12 layers of width 512, a vocabulary of 8192, sequences of 2048. A step is
forward and backward of some batches and one AdamW in bfloat16 autocast, each block compiled; ours is the step
of `chimera train`, rounds drawn for each batch and replayed as CUDA graphs. The loss must be finite and the
gradient must not be zero, or the arm is refused: a step that learns nothing is fast. A step in which the
compiler was at work is not timed. `--profile` adds the kernels that one more step spends its time in.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from chimera.cross_entropy import mean_loss
from chimera.model import ChimeraForCausalLM, build
from chimera.train.groups import adamw, set_rates
from chimera.train.step import MicroBatch, StepOptions, TrainStep, prepare
from configs.load import build_config
from quant.qat.activations import RMSNorm
from quant.qat.linear import BitLinear, set_quant_mix
from quant.qat.swiglu import SwiGLU

WIDTH, INNER, LAYERS, VOCABULARY, HEAD = 512, 1408, 12, 8192, 64
WARM = 4


def recurrent(pattern: str, **extra: Any) -> Callable[[], nn.Module]:
    """A model of ours whose layers follow a pattern."""

    def make() -> nn.Module:
        raw = {
            "hidden_size": WIDTH,
            "intermediate_size": INNER,
            "num_hidden_layers": LAYERS,
            "vocab_size": VOCABULARY,
            "backbone": {"layer_pattern": pattern, **extra.get("backbone", {})},
            "looping": extra.get("looping", {}),
        }
        return build(build_config(raw, source="benchmark"))

    return make


class Transformer(nn.Module):
    """A plain causal transformer with rotary positions; its linear layers ternary, or in full precision."""

    def __init__(self, *, ternary: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(TransformerBlock(ternary=ternary) for _ in range(LAYERS))
        self.final_norm = RMSNorm(WIDTH)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Logits of every token."""
        x_BTD = self.embedding(ids_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD)
        return F.linear(self.final_norm(x_BTD), self.embedding.weight)


class TransformerBlock(nn.Module):
    """Attention and SwiGLU."""

    def __init__(self, *, ternary: bool) -> None:
        super().__init__()
        self.qkv = BitLinear(WIDTH, 3 * WIDTH)
        self.out = BitLinear(WIDTH, WIDTH)
        self.ffn = SwiGLU(WIDTH, INNER)
        if not ternary:
            set_quant_mix(self, 0.0)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The residual stream after the block."""
        q, k, v = (
            part.unflatten(-1, (WIDTH // HEAD, HEAD)).transpose(1, 2)
            for part in self.qkv(x_BTD).chunk(3, dim=-1)
        )
        y = F.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True)
        x_BTD = x_BTD + self.out(y.transpose(1, 2).flatten(2))
        return x_BTD + self.ffn(x_BTD)


def rotated(x_BHTK: Tensor) -> Tensor:
    """Rotary positions, half-split."""
    half = x_BHTK.shape[-1] // 2
    rate_K = 10_000.0 ** (-torch.arange(half, device=x_BHTK.device) / half)
    angle_TK = torch.arange(x_BHTK.shape[-2], device=x_BHTK.device)[:, None] * rate_K
    cos, sin = angle_TK.cos().to(x_BHTK.dtype), angle_TK.sin().to(x_BHTK.dtype)
    first, second = x_BHTK[..., :half], x_BHTK[..., half:]
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


HYBRID = "GD XM GD TM GD XM GD SK"
LOOPED = {"enabled": True, "prelude": [0, 1], "loop": [2, 9], "coda": [10, 11], "loop_range": [1, 4]}
EXPERTS = {"moe": {"enabled": True, "n_routed_experts": 8, "moe_intermediate_size": 384}}

ARMS: Mapping[str, Callable[[], nn.Module]] = {
    "transformer": lambda: Transformer(ternary=True),
    "transformer_bf16": lambda: Transformer(ternary=False),
    "gd": recurrent("GD"),
    "xm": recurrent("XM"),
    "tm": recurrent("TM"),
    "hybrid": recurrent(HYBRID),
    "hybrid_moe": recurrent(HYBRID, backbone=EXPERTS),
    "hybrid_loop_moe": recurrent(HYBRID, backbone=EXPERTS, looping=LOOPED),
}


Step = Callable[[int], tuple[float, float]]
"""Takes the step's number, gives its loss and the norm of its gradient."""


def step_of(model: nn.Module, *, rows: int, tokens: int, batches: int, device: str) -> Step:
    """What one step of a model is."""
    ids_BT = torch.randint(VOCABULARY, (rows, tokens + 1), device=device)
    if isinstance(model, ChimeraForCausalLM):
        optimizer = adamw(model, weight_decay=0.1)
        set_rates(optimizer.param_groups, rate=3e-4, decay=0.1)
        prepare(model, compile=True, checkpointing=False)
        options = StepOptions(bf16=True, graphs=device == "cuda")
        ours = TrainStep(model, optimizer, grad_clip=1.0, seed=0, options=options)
        batch = MicroBatch(ids_BT[:, :-1], ids_BT[:, 1:], None, 1, rows * tokens, rows * tokens)

        def run(step: int) -> tuple[float, float]:
            result = ours.run([batch] * batches, step=step)
            return result.loss, result.grad_norm

        return run
    for index, layer in enumerate(model.layers):
        model.layers[index] = torch.compile(layer, dynamic=False)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=device == "cuda")

    def plain(_: int) -> tuple[float, float]:
        for _ in range(batches):
            with torch.autocast(device, dtype=torch.bfloat16):
                labels_T = ids_BT[:, 1:].flatten()
                logits = model(ids_BT[:, :-1])
                losses_T = F.cross_entropy(logits.flatten(0, 1).float(), labels_T, reduction="none")
                loss = mean_loss(losses_T, labels_T) / batches
            loss.backward()
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return batches * loss.item(), norm

    return plain


def compiled_graphs() -> int:
    """How many graphs the compiler has made so far."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def measure(
    name: str, *, rows: int, tokens: int, batches: int, steps: int, device: str, profiled: bool
) -> dict[str, Any]:
    """Build one arm, compile its blocks, and time its steps."""
    torch.manual_seed(0)
    with torch.device(device):
        model = ARMS[name]().to(device)
    one_step = step_of(model, rows=rows, tokens=tokens, batches=batches, device=device)
    loss, norm = 0.0, 0.0
    seconds: list[float] = []
    started = time.perf_counter()
    for step in range(WARM + steps):
        begin, graphs = time.perf_counter(), compiled_graphs()
        loss, norm = one_step(step)
        if device == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - begin
        new = compiled_graphs() - graphs
        print(
            f"  {name}: step {step}, {took * 1e3:.1f} ms" + (f", {new} graphs compiled" if new else ""),
            flush=True,
        )
        if step == WARM - 1:
            print(f"  {name}: warm after {time.perf_counter() - started:.0f} s", flush=True)
        if step >= WARM and not new:
            seconds.append(took)
    if not seconds:
        raise SystemExit(f"{name}: the compiler was at work in every timed step; ask for more --steps")
    if profiled:
        print(kernels_of(lambda: one_step(WARM + steps), device=device), flush=True)
    if not (math.isfinite(loss) and norm > 0):
        raise SystemExit(f"{name}: loss {loss}, gradient norm {norm}: this step learns nothing")
    median = statistics.median(seconds)
    return {
        "arm": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_s": round(batches * rows * tokens / median),
        "step_ms": round(median * 1e3, 1),
        "spread_ms": [round(min(seconds) * 1e3, 1), round(max(seconds) * 1e3, 1)],
        "memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 1) if device == "cuda" else None,
        "loss": round(loss, 3),
        "steps": len(seconds),
    }


def kernels_of(step: Callable[[], object], *, device: str) -> str:
    """A table of the kernels that one step spends most of its time in."""
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiled:
        step()
    return profiled.key_averages().table(
        sort_by=f"self_{device}_time_total", row_limit=20, max_name_column_width=70
    )


def main() -> None:
    """Measure the arms asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--batches", type=int, default=4, help="batches of a step")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    results: list[dict[str, Any]] = []
    for name in args.arms.split(","):
        torch.compiler.reset()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        results.append(
            measure(
                name,
                rows=args.rows,
                tokens=args.tokens,
                batches=args.batches,
                steps=args.steps,
                device=device,
                profiled=args.profile,
            )
        )
        print(json.dumps(results[-1]), flush=True)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
