"""An ONNX graph under construction: values that know their shape and integer codes, deduplicated initializers."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper
from torch import Tensor

from ...version import __version__

__all__ = ["BATCH", "IR_VERSION", "OPSET", "BatchSize", "Codes", "GraphBuilder", "Value"]

# The newest pair that ONNX Runtime 1.20, the oldest one supported, runs in full.
OPSET = 21
IR_VERSION = 10


class BatchSize:
    """The number of images, unknown until the file runs; stands for dimension 0 in a shape."""

    def __repr__(self) -> str:
        return "batch"


BATCH = BatchSize()


@dataclass(frozen=True)
class Codes:
    """Unsigned integer codes of a quantized tensor: real value = scale · (code − zero_point).

    Args:
        name: The uint8 tensor in the graph.
        scale: Positive step.
        zero_point: Code of the real value 0, in 0..2^bits − 1.
        bits: 2–8; codes run from 0 to 2^bits − 1.
    """

    name: str
    scale: float
    zero_point: int
    bits: int


@dataclass(frozen=True)
class Value:
    """One tensor of the graph.

    Args:
        name: Its float tensor; empty while only the codes have been written.
        shape: Its shape for the example; dimension 0 is the batch.
        codes: Its integer codes when the tensor is quantized.
    """

    name: str
    shape: tuple[int, ...] = ()
    codes: Codes | None = None


class GraphBuilder:
    """Collects nodes and initializers; names of tensors are counters, so that equal models give equal bytes.

    Attributes:
        layer: Name of the layer that nodes are written for, empty between layers. They are called
            ``<layer>/<operator>`` (numbered from the second on), so that the runtime's profile names layers.
    """

    def __init__(self) -> None:
        self.layer = ""
        self._nodes: list[Any] = []
        # written in place: helper.make_graph and make_model would each copy every weight
        self._model = ModelProto()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._floats: dict[Codes, str] = {}
        self._shielded: dict[str, str] = {}
        self._folded: set[str] = set()
        self._named: Counter[str] = Counter()
        self._names = 0

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        output = self._name()
        node = helper.make_node(operator, list(inputs), [output], **attributes)
        if all(name in self._folded for name in inputs if name):
            self._folded.add(output)  # the runtime computes it on loading, so no profile will name it
        elif self.layer:
            name = f"{self.layer}/{operator}"
            self._named[name] += 1
            node.name = name if self._named[name] == 1 else f"{name}_{self._named[name]}"
        self._nodes.append(node)
        return output

    def constant(self, array: Any, dtype: Any = None) -> str:
        """The name of an initializer that holds `array`; equal arrays share one."""
        fixed = np.ascontiguousarray(array, dtype=dtype).reshape(np.shape(array))
        key = (fixed.dtype.str, fixed.shape, hashlib.blake2b(fixed.data).digest())
        if key not in self._constants:
            name = self._name()
            tensor = self._model.graph.initializer.add()
            tensor.name, tensor.data_type = name, helper.np_dtype_to_tensor_dtype(fixed.dtype)
            tensor.dims.extend(fixed.shape)
            tensor.raw_data = fixed.astype(fixed.dtype.newbyteorder("<"), copy=False).tobytes()
            self._constants[key] = name
            self._folded.add(name)
        return self._constants[key]

    def integers(self, values: Any) -> str:
        """The name of a one-dimensional int64 initializer (shapes, axes, pads)."""
        return self.constant(np.atleast_1d(np.asarray(values, dtype=np.int64)))

    def real(self, value: Value | Tensor | np.ndarray | float) -> str:
        """The name of the float tensor of `value`; codes are dequantized once, where first asked for."""
        if isinstance(value, Tensor):
            return self.constant(value.detach().cpu().numpy(), np.float32)
        if not isinstance(value, Value):
            return self.constant(np.asarray(value, dtype=np.float32))
        if value.codes is None:
            return value.name
        codes = value.codes
        if codes not in self._floats:
            self._floats[codes] = self.add("DequantizeLinear", codes.name, *self._grid(codes))
        return self._floats[codes]

    def shielded(self, value: Value) -> str:
        """`real` of `value` for a layer with float weights, which the runtime shall leave float.

        ONNX Runtime 1.31 (not yet 1.20) gives float weights between quantized tensors 8 bits of its own, with one scale
        a layer (ResNet-20 with 4-bit weights: 35 dB instead of 56). A maximum with the lowest number changes nothing
        and hides the codes from it.
        """
        real = self.real(value)
        if value.codes is None:
            return real
        if real not in self._shielded:
            self._shielded[real] = self.add("Max", real, self.constant(np.finfo(np.float32).min, np.float32))
        return self._shielded[real]

    def quantize(self, value: Value, *, scale: float, zero_point: int, bits: int) -> Value:
        """The tensor quantized to `bits`; half-way values round to even, as torch's simulation does.

        Fewer than 8 bits are uint8 codes clipped to 2^bits − 1: ONNX Runtime fuses the layers around that clip all the
        same, whereas a float clip before QuantizeLinear would leave every convolution in float.
        """
        codes = Codes("", scale, zero_point, bits)
        if value.codes is not None and replace(value.codes, name="") == codes:
            return value
        name = self.add("QuantizeLinear", self.real(value), *self._grid(codes))
        if bits < 8:
            name = self.add("Clip", name, self.constant(np.uint8(0)), self.constant(np.uint8(2**bits - 1)))
        return Value("", value.shape, replace(codes, name=name))

    def move(self, operator: str, value: Value, *inputs: str, fill: bool = False, **attributes: Any) -> Value:
        """Apply an operator that only moves elements: on the codes where there are some, so that they stay integer.

        Args:
            operator: Reshape, Transpose, Slice, Pad, Gather, MaxPool or Flatten.
            value: The tensor.
            inputs: Further inputs of the node.
            fill: Append the code (or the float) of zero as the last input, for Pad.
            attributes: Attributes of the node.
        """
        if value.codes is None:
            zero = (self.constant(np.float32(0)),) if fill else ()
            return Value(self.add(operator, value.name, *inputs, *zero, **attributes))
        zero = (self.constant(np.uint8(value.codes.zero_point)),) if fill else ()
        name = self.add(operator, value.codes.name, *inputs, *zero, **attributes)
        return Value("", (), replace(value.codes, name=name))

    def model(self, input_shape: tuple[int, ...], outputs: list[tuple[Value, str]]) -> ModelProto:
        """The finished model: input ``images`` of shape ("batch", *input_shape) and the named float outputs."""
        for value, name in outputs:
            self._nodes.append(helper.make_node("Identity", [self.real(value)], [name]))
        self._drop_identities([name for _, name in outputs])
        model, graph = self._model, self._model.graph
        graph.name = "candidate"
        graph.node.extend(self._nodes)
        graph.input.append(helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *input_shape]))
        for value, name in outputs:
            shape: list[str | int] = ["batch", *value.shape[1:]]
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        model.ir_version = IR_VERSION
        model.producer_name, model.producer_version = "forgefront", __version__
        model.opset_import.append(helper.make_opsetid("", OPSET))
        return model

    def _drop_identities(self, names: list[str]) -> None:
        """Let the node that makes an output carry its name, where nothing else reads it."""
        for name in names:
            identity = next(node for node in self._nodes if name in node.output)
            source = identity.input[0]
            makers = [node for node in self._nodes if source in node.output]
            readers = [node for node in self._nodes if source in node.input]
            if len(makers) == 1 and len(readers) == 1:
                makers[0].output[list(makers[0].output).index(source)] = name
                self._nodes.remove(identity)

    def _grid(self, codes: Codes) -> tuple[str, str]:
        return self.constant(np.float32(codes.scale)), self.constant(np.uint8(codes.zero_point))

    def _name(self) -> str:
        self._names += 1
        return f"t{self._names}"
