"""What the threads of an engine's pool do, by its name."""

from quant.native import NamedKernel

run_records = NamedKernel("runtime.worker_kernels", "run_records", 4)
