"""The same product by others: ONNX Runtime's 2-bit MatMulNBits, PyTorch in float32 and with int8 weights."""

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from quant.ternary import TernaryWeights, dequantize_ternary

Product = Callable[[], NDArray[np.float32]]


def onnxruntime_2bit(weights: TernaryWeights, x_TK: NDArray[np.float32], *, num_threads: int) -> Product:
    """MatMulNBits with 2 bits, blocks of 128 and accuracy level 4, the settings of its fast path."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    rows, inputs = weights.codes.shape
    blocks = inputs // 128
    codes = (weights.codes.reshape(rows, blocks, 32, 4) + 2).astype(np.uint8)
    packed = codes[..., 0] | codes[..., 1] << 2 | codes[..., 2] << 4 | codes[..., 3] << 6
    scales = weights.scales.astype(np.float32).reshape(-1)
    node = helper.make_node(
        "MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft",
        K=inputs, N=rows, bits=2, block_size=128, accuracy_level=4,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x_TK.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (len(x_TK), rows))],
        [numpy_helper.from_array(packed, "codes"), numpy_helper.from_array(scales, "scales")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x_TK})[0]


def torch_float32(weights: TernaryWeights, x_TK: NDArray[np.float32], *, num_threads: int) -> Product:
    import torch

    torch.set_num_threads(num_threads)
    w_OK, x = torch.from_numpy(dequantize_ternary(weights)), torch.from_numpy(x_TK)
    return lambda: torch.nn.functional.linear(x, w_OK).numpy()


def torch_int8(weights: TernaryWeights, x_TK: NDArray[np.float32], *, num_threads: int) -> Product:
    """PyTorch's dynamically quantised linear layer: int8 weights with a scale a row, activations by token."""
    import torch

    torch.set_num_threads(num_threads)
    w_OK = torch.from_numpy(dequantize_ternary(weights))
    # 63 and not 127: its AVX2 form saturates where large codes meet large activations.
    scales = w_OK.abs().amax(dim=1) / 63
    zeros = torch.zeros(len(w_OK), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these functions will move to another package
        quantized = torch.quantize_per_channel(w_OK, scales, zeros, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(quantized, None)
    x = torch.from_numpy(x_TK)
    return lambda: torch.ops.quantized.linear_dynamic(x, packed).numpy()


PEERS: dict[str, Callable[..., Product]] = {
    "onnxruntime 2-bit": onnxruntime_2bit,
    "torch float32": torch_float32,
    "torch int8": torch_int8,
}


def too_far(found: NDArray[np.float32], expected: NDArray[np.float32]) -> str:
    """The gate of a peer, which quantises in its own way: 3 % of the norm at most, else what is wrong."""
    distance = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    return "" if distance < 0.03 else f"{distance:.3f} of the norm away from the float32 product"
