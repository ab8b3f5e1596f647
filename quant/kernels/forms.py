"""Every operation of the table and its forms, by the kernels' names: what a start needs of the table.

`quant.kernels.table` has the rest of each operation, which only checks, tests and benchmarks need.
"""

from quant.cpu import Form
from quant.kernels import product_forms
from quant.native import Kernel, KernelsOf

addition = KernelsOf("quant.kernels.residual.addition")
convolution = KernelsOf("quant.kernels.convolution.kernels")
delta = KernelsOf("quant.kernels.delta.kernels")
dense = KernelsOf("quant.kernels.dense.kernels")
elementary = KernelsOf("quant.kernels.elementary.kernels")
experts = KernelsOf("quant.kernels.experts.kernels")
gated = KernelsOf("quant.kernels.swiglu.kernels")
lookup = KernelsOf("quant.kernels.rows.lookup")
mlstm = KernelsOf("quant.kernels.mlstm.kernels")
norm = KernelsOf("quant.kernels.norm.kernels")
residual = KernelsOf("quant.kernels.residual.kernels")
rounds = KernelsOf("quant.kernels.rounds.kernels")
sherry_avx2 = KernelsOf("quant.kernels.sherry.avx2")
sherry_neon = KernelsOf("quant.kernels.sherry.neon")
sherry_neon_dot = KernelsOf("quant.kernels.sherry.neon_dot")
sherry_plain = KernelsOf("quant.kernels.sherry.plain")
titans_kernels = KernelsOf("quant.kernels.titans.kernels")
trits_packing = KernelsOf("quant.kernels.trits.packing")
vocabulary = KernelsOf("quant.kernels.vocabulary.kernels")

FORMS: dict[str, dict[Form, Kernel]] = {
    "ternary_matmul": product_forms.TERNARY,
    "sherry_matmul": {
        "avx2": sherry_avx2.matmul,
        "neon-dot": sherry_neon_dot.matmul,
        "neon": sherry_neon.matmul,
        "plain": sherry_plain.matmul,
    },
    "int8_matmul": product_forms.INT8,
    "int4_matmul": product_forms.INT4,
    "int2_matmul": product_forms.INT2,
    "int8_selected": product_forms.INT8_SELECTED,
    "int4_selected": product_forms.INT4_SELECTED,
    "int2_selected": product_forms.INT2_SELECTED,
    "int8_lookup": {"plain": lookup.lookup_int8},
    "int4_lookup": {"plain": lookup.lookup_int4},
    "int2_lookup": {"plain": lookup.lookup_int2},
    "exp": {"plain": elementary.exp},
    "log": {"plain": elementary.log},
    "sigmoid": {"plain": elementary.sigmoid},
    "softplus": {"plain": elementary.softplus},
    "silu": {"plain": elementary.silu},
    "tanh": {"plain": elementary.tanh},
    "rotation_angles": {"plain": elementary.rotation_angles},
    "quantize_blocks": {"plain": norm.quantize},
    "rms_norm": {"plain": norm.rms_norm},
    "rms_norm_quantize": {"plain": norm.rms_norm_quantize},
    "swiglu": {"plain": gated.swiglu},
    "swiglu_quantize": {"plain": gated.swiglu_quantize},
    "swiglu_norm_quantize": {"plain": gated.swiglu_norm_quantize},
    "vocabulary_weights": {"plain": vocabulary.weights},
    "titans": {"plain": titans_kernels.titans},
    "lookup_matmul": product_forms.COLUMNS,
    "trits_matmul": product_forms.TRITS,
    "trits_packing": {"plain": trits_packing.pack},
    "dense": {"plain": dense.dense},
    "short_convolution": {"plain": convolution.short_convolution},
    "gated_delta": {"plain": delta.gated_delta},
    "exact_flow": {"plain": delta.exact_flow},
    "mlstm": {"plain": mlstm.mlstm},
    "add_rows": {"plain": addition.add},
    "norm_both": {"plain": residual.norm_both},
    "add_norm_both": {"plain": residual.norm_both},
    "scale_rows": {"plain": rounds.scale_rows},
    "mix_rounds": {"plain": rounds.mix_rounds},
    "keep_rounds": {"plain": rounds.keep_rounds},
    "choose_experts": {"plain": experts.choose},
    "weigh_experts": {"plain": experts.weigh},
}
"""Name of an operation: its forms, best first. `plain` serves any CPU."""
