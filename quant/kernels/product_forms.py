"""The forms of the products with packed weights, best first; other operations have one form for every CPU."""

from quant.cpu import Form
from quant.native import Kernel, KernelsOf

# By name, so that whoever looks at the forms loads no compiler: `avx2.matmul` is that kernel of that module.
int2 = KernelsOf("quant.kernels.rows.int2")
int4 = KernelsOf("quant.kernels.rows.int4")
int8 = KernelsOf("quant.kernels.rows.int8")
rows_avx512 = KernelsOf("quant.kernels.rows.avx512")
rows_neon = KernelsOf("quant.kernels.rows.neon")
rows_neon_dot = KernelsOf("quant.kernels.rows.neon_dot")
rows_ssse3 = KernelsOf("quant.kernels.rows.ssse3")
avx2 = KernelsOf("quant.kernels.ternary.avx2")
avx512 = KernelsOf("quant.kernels.ternary.avx512")
avxvnni = KernelsOf("quant.kernels.ternary.avxvnni")
neon = KernelsOf("quant.kernels.ternary.neon")
neon_dot = KernelsOf("quant.kernels.ternary.neon_dot")
plain = KernelsOf("quant.kernels.ternary.plain")
ssse3 = KernelsOf("quant.kernels.ternary.ssse3")
vnni = KernelsOf("quant.kernels.ternary.vnni")
lookup = KernelsOf("quant.kernels.ternary.lookup")
lookup_plain = KernelsOf("quant.kernels.ternary.lookup_plain")
trits_avx2 = KernelsOf("quant.kernels.trits.avx2")
trits_plain = KernelsOf("quant.kernels.trits.plain")
trits_vbmi = KernelsOf("quant.kernels.trits.vbmi")
trits_vnni = KernelsOf("quant.kernels.trits.vnni")

TERNARY: dict[Form, Kernel] = {
    "avx512vnni": vnni.matmul,
    "avxvnni": avxvnni.matmul,
    "avx512": avx512.matmul,
    "avx2": avx2.matmul,
    "ssse3": ssse3.matmul,
    "neon-dot": neon_dot.matmul,
    "neon": neon.matmul,
    "plain": plain.matmul,
}

# Wider registers would hold columns that need different tables: the source for AVX2 is the widest.
COLUMNS: dict[Form, Kernel] = {
    "avx2": lookup.matmul,
    "ssse3": lookup.matmul,
    "neon": lookup.matmul,
    "plain": lookup_plain.matmul,
}
TRITS: dict[Form, Kernel] = {
    "avx512vbmi": trits_vbmi.matmul,
    "avx512vnni": trits_vnni.matmul,
    "avxvnni": trits_vnni.matmul_avxvnni,
    "avx2": trits_avx2.matmul,
    "plain": trits_plain.matmul,
}

# The sources of 8 and 4 bits for AVX-512 VNNI fit the sixteen registers of AVX-VNNI too, in halves.
INT8: dict[Form, Kernel] = {
    "avx512vnni": int8.matmul_vnni,
    "avxvnni": int8.matmul_vnni,
    "avx512": rows_avx512.int8_matmul,
    "avx2": int8.matmul_avx2,
    "ssse3": rows_ssse3.int8_matmul,
    "neon-dot": rows_neon_dot.int8_matmul,
    "neon": rows_neon.int8_matmul,
    "plain": int8.matmul_plain,
}
INT8_SELECTED: dict[Form, Kernel] = {
    "avx512vnni": int8.selected_vnni,
    "avxvnni": int8.selected_vnni,
    "avx512": rows_avx512.int8_selected,
    "avx2": int8.selected_avx2,
    "ssse3": rows_ssse3.int8_selected,
    "neon-dot": rows_neon_dot.int8_selected,
    "neon": rows_neon.int8_selected,
    "plain": int8.selected_plain,
}

INT4: dict[Form, Kernel] = {
    "avx512vnni": int4.matmul_vnni,
    "avxvnni": int4.matmul_vnni,
    "avx512": rows_avx512.int4_matmul,
    "avx2": int4.matmul_avx2,
    "ssse3": rows_ssse3.int4_matmul,
    "neon-dot": rows_neon_dot.int4_matmul,
    "neon": rows_neon.int4_matmul,
    "plain": int4.matmul_plain,
}
INT4_SELECTED: dict[Form, Kernel] = {
    "avx512vnni": int4.selected_vnni,
    "avxvnni": int4.selected_vnni,
    "avx512": rows_avx512.int4_selected,
    "avx2": int4.selected_avx2,
    "ssse3": rows_ssse3.int4_selected,
    "neon-dot": rows_neon_dot.int4_selected,
    "neon": rows_neon.int4_selected,
    "plain": int4.selected_plain,
}

INT2: dict[Form, Kernel] = {
    "avx512vnni": int2.matmul_vnni,
    "avxvnni": int2.matmul_avxvnni,
    "avx512": rows_avx512.int2_matmul,
    "avx2": int2.matmul_avx2,
    "ssse3": rows_ssse3.int2_matmul,
    "neon-dot": rows_neon_dot.int2_matmul,
    "neon": rows_neon.int2_matmul,
    "plain": int2.matmul_plain,
}
INT2_SELECTED: dict[Form, Kernel] = {
    "avx512vnni": int2.selected_vnni,
    "avxvnni": int2.selected_avxvnni,
    "avx512": rows_avx512.int2_selected,
    "avx2": int2.selected_avx2,
    "ssse3": rows_ssse3.int2_selected,
    "neon-dot": rows_neon_dot.int2_selected,
    "neon": rows_neon.int2_selected,
    "plain": int2.selected_plain,
}
