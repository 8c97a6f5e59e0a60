"""An ONNX graph under construction."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 18
IR_VERSION = 10  # of the file; what ONNX Runtime 1.18 and OpenVINO 2024 read


class Graph:
    """Operators and constants, in the order they are added. Values are named by strings."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple, str] = {}
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int | str], dtype, default=None) -> str:
        """An input of the graph; with a default a caller may leave it out."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        if default is not None:
            value = np.asarray(default, dtype, order="C")
            self._initializers.append(numpy_helper.from_array(value, name))
        return name

    def constant(self, value, dtype=np.float32) -> str:
        """An array that is part of the file; equal ones are kept once."""
        array = np.asarray(value, dtype, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._constants[key] = f"constant{len(self._constants)}"
            self._initializers.append(numpy_helper.from_array(array, name))
        return self._constants[key]

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes) -> Any:
        """Add an operator; returns the name of its result, or the names of several."""
        name = f"{operator}{len(self._nodes)}"
        names = [name] if outputs == 1 else [f"{name}.{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(operator, inputs, names, name, **attributes))
        return names[0] if outputs == 1 else names

    def shaped(self, x: str, *shape: int) -> str:
        """Reshaped; at most one -1."""
        return self.add("Reshape", x, self.constant(shape, np.int64))

    def model(self, outputs: dict[str, tuple[str, Sequence[int | str], Any]]) -> onnx.ModelProto:
        """The whole: a name for each result, which value that is, its shape and dtype."""
        results = []
        for name, (value, shape, dtype) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [value], [name], name))
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            results.append(helper.make_tensor_value_info(name, kind, shape))
        graph = helper.make_graph(
            self._nodes, "diffad", self._inputs, results, initializer=self._initializers
        )
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="diffad_jax"
        )
