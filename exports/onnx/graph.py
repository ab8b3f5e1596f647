"""A graph under construction: nodes with names of their own, small constants, large ones in a file beside.

Every node gives a name; a branch is a graph inside a node (of `If` or `Scan`), and sees the names around it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exports.onnx.data import DataFile

Attribute: TypeAlias = int | float | str | Sequence[int] | onnx.GraphProto
CONTRIB = "com.microsoft"
OPSET = 23
"""The first with RMSNormalization."""
IR_VERSION = 11
INLINE_BYTES = 1024
"""A constant of so many bytes goes to the file beside."""
_EMPTY: Mapping[str, Attribute] = {}


class Graph:
    """A graph, or a branch of one."""

    def __init__(self, data: DataFile, *, around: "Graph | None" = None) -> None:
        self.data = data
        self.nodes: list[onnx.NodeProto] = []
        self._outermost: Graph = around._outermost if around is not None else self
        self._counter: count[int] = around._counter if around is not None else count()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._made: dict[str, str] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def branch(self) -> "Graph":
        """A graph inside this one."""
        return Graph(self.data, around=self)

    def name(self, stem: str) -> str:
        """A name that nothing else has."""
        return f"{stem}_{next(self._counter)}"

    def op(self, kind: str, *inputs: str, attributes: Mapping[str, Attribute] = _EMPTY, to: str = "") -> str:
        """A node with one output, and its name."""
        return self.ops(kind, *inputs, attributes=attributes, outputs=(to or self.name(kind),))[0]

    def ops(
        self,
        kind: str,
        *inputs: str,
        attributes: Mapping[str, Attribute] = _EMPTY,
        outputs: Sequence[str] = (),
        num_outputs: int = 0,
    ) -> list[str]:
        """A node with several outputs, and their names; a kind with a dot before it is of onnxruntime."""
        names = list(outputs) or [self.name(kind.lstrip(".")) for _ in range(num_outputs)]
        self.nodes.append(
            helper.make_node(
                kind.lstrip("."),
                inputs,
                names,
                name=self.name("node"),
                domain=CONTRIB if kind.startswith(".") else "",
            )
        )
        self.nodes[-1].attribute.extend(
            helper.make_attribute(name, value) for name, value in sorted(attributes.items())
        )
        return names

    def constant(self, value: NDArray[np.generic] | Sequence[int] | float | int, *, stem: str = "c") -> str:
        """A constant; whole numbers are int64, others float32. Equal ones are one."""
        array = _array(value)
        key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        outer = self._outermost
        if key not in outer._constants:
            name = outer.name(stem)
            outer._constants[key] = name
            if array.nbytes < INLINE_BYTES:
                outer._initializers[name] = numpy_helper.from_array(array, name)
            else:
                outer.stored(name, outer.data.place_array(name, array))
        return outer._constants[key]

    def once(self, key: str, make: "Callable[[Graph], str]") -> str:
        """What is made of constants in the outermost graph, where onnxruntime computes it as it loads."""
        outer = self._outermost
        if key not in outer._made:
            outer._made[key] = make(outer)
        return outer._made[key]

    def stored(self, name: str, tensor: onnx.TensorProto) -> str:
        """A constant that lies in the file beside, known by its name."""
        self._outermost._initializers.setdefault(name, tensor)
        return name

    def input(self, name: str, dtype: int, shape: Sequence[int | str | None] | None) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: int, shape: Sequence[int | str | None] | None) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def proto(self, name: str) -> onnx.GraphProto:
        """What is built so far."""
        return helper.make_graph(
            self.nodes, name, self.inputs, self.outputs, initializer=list(self._initializers.values())
        )

    def split(self, x: str, sizes: Sequence[int], *, axis: int) -> list[str]:
        """Parts of an axis, of these sizes; one size is the whole."""
        if len(sizes) == 1:
            return [x]
        return self.ops("Split", x, self.constant(sizes), attributes={"axis": axis}, num_outputs=len(sizes))

    def reshape(self, x: str, *shape: int) -> str:
        """Other axes; 0 keeps an axis, −1 is what is left."""
        return self.op("Reshape", x, self.constant(shape))

    def transpose(self, x: str, *order: int) -> str:
        return self.op("Transpose", x, attributes={"perm": order})

    def concat(self, *parts: str, axis: int, to: str = "") -> str:
        if len(parts) == 1 and not to:
            return parts[0]
        return self.op("Concat", *parts, attributes={"axis": axis}, to=to)

    def cast(self, x: str, dtype: int) -> str:
        return self.op("Cast", x, attributes={"to": dtype})

    def unsqueeze(self, x: str, *axes: int) -> str:
        return self.op("Unsqueeze", x, self.constant(axes))

    def squeeze(self, x: str, *axes: int) -> str:
        return self.op("Squeeze", x, self.constant(axes))

    def slice(self, x: str, first: int, after: int, *, axis: int) -> str:
        return self.op("Slice", x, *(self.constant([value]) for value in (first, after, axis)))

    def size(self, x: str, axis: int) -> str:
        """The length of an axis, as [1]."""
        return self.op("Shape", x, attributes={"start": axis, "end": axis + 1})


def _array(value: NDArray[np.generic] | Sequence[int] | float | int) -> NDArray[np.generic]:
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value).reshape(value.shape)
    return np.asarray(value, dtype=np.float32 if isinstance(value, float) else np.int64)


def model_proto(graph: onnx.GraphProto, *, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """The model's file without its large constants."""
    from configs.version import VERSION

    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)],
        ir_version=IR_VERSION,
        producer_name="chimera-edge",
        producer_version=VERSION,
    )
    helper.set_model_props(model, dict(metadata))
    return model


FLOAT, INT8, UINT8, INT64 = TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT64
FLOAT16, DOUBLE = TensorProto.FLOAT16, TensorProto.DOUBLE
