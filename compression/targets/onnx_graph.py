"""A candidate as an ONNX model, written from its torch.fx graph in milliseconds: integers where it has codes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from onnx import ModelProto
from torch import Tensor, fx, nn

from ...studies.errors import TargetError
from ..quantizers import ActivationQuantizer
from .onnx_arithmetic import line_of_hardsigmoid
from .onnx_builder import GraphBuilder, Value
from .onnx_fusion import NORMS, find_fusions
from .onnx_layers import array, batch_norm, batch_norm_affine, convolution, linear
from .onnx_ops import FUNCTIONS, METHODS, MODULES

if TYPE_CHECKING:
    from ..candidate import LayerCodes

__all__ = ["emit"]

WITH_WEIGHTS = (nn.Conv2d, nn.Linear, nn.LayerNorm, *NORMS)


def emit(
    model: nn.Module, codes: Mapping[str, LayerCodes], example: Tensor, *, clustered: Collection[str] = ()
) -> ModelProto:
    """Write `model` as ONNX (opset 21), the number of images left free.

    Args:
        model: In evaluation mode and traceable by torch.fx; activation quantizers have `bits`, `scale`, `zero_point`.
        codes: Integer codes of the weights by layer name; layers not named stay float.
        example: One image (1, C, H, W) float.
        clustered: Names of layers whose weights take few values.

    Returns:
        A model with input ``images`` and output ``output`` (or ``output_0``, ``output_1``, …).

    Raises:
        TargetError: The model cannot be traced, or holds an operation that has no rule; names it and its layer.
    """
    graph = _trace(model)
    shapes = _shapes(model, graph, example)
    return _Emitter(model, codes, clustered, graph, shapes).run(tuple(example.shape[1:]))


class _Tracer(fx.Tracer):
    """Stops at modules that have a rule and looks into all others."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # a subclass with a forward of its own (torchvision's LayerNorm2d) is looked into
        weighted = any(isinstance(m, kind) and type(m).forward is kind.forward for kind in WITH_WEIGHTS)
        return weighted or type(m) in MODULES or isinstance(m, ActivationQuantizer)


def _trace(model: nn.Module) -> fx.Graph:
    if model.training:
        raise TargetError("`model` must be in evaluation mode to be exported; found training mode.")
    try:
        return _Tracer().trace(model)
    except (fx.proxy.TraceError, TypeError, NameError, RuntimeError) as error:
        line = str(error).splitlines()[0]
        raise TargetError(
            f"`model` {type(model).__name__} must be traceable by torch.fx to be exported; {line}"
        ) from None


def _shapes(model: nn.Module, graph: fx.Graph, example: Tensor) -> dict[fx.Node, Any]:
    """Shape of every tensor (a tuple of shapes where a node gives several) when the model sees `example`."""

    class Shapes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            found[n] = _shape(result)
            return result

    found: dict[fx.Node, Any] = {}
    parameter = next(model.parameters(), example)
    with torch.no_grad():
        Shapes(model, graph=graph).run(example.to(parameter.device, parameter.dtype))
    return found


def _shape(result: Any) -> Any:
    if isinstance(result, Tensor):
        return tuple(result.shape)
    return [_shape(part) for part in result] if isinstance(result, list | tuple) else None


class _Emitter:
    """Walks the graph once; every node becomes a `Value`, or a plain Python value such as a size."""

    def __init__(
        self,
        model: nn.Module,
        codes: Mapping[str, LayerCodes],
        clustered: Collection[str],
        graph: fx.Graph,
        shapes: dict[fx.Node, Any],
    ) -> None:
        self.modules = dict(model.named_modules())
        self.clustered = clustered
        self.model, self.codes, self.graph, self.shapes = model, codes, graph, shapes
        self.builder = GraphBuilder()
        self.values: dict[fx.Node, Any] = {}
        self.fusions = find_fusions(graph, self.modules)

    def run(self, input_shape: tuple[int, ...]) -> ModelProto:
        outputs: list[tuple[Value, str]] = []
        for node in self.graph.nodes:
            if node.op == "output":
                outputs = _named(self._argument(node.args[0]))
            elif node.op == "placeholder":
                self.values[node] = Value("images", (1, *input_shape)) if not self.values else None
            else:
                self.builder.layer = self.fusions.layers.get(node, "")
                self.values[node] = _with_shape(self._node(node), self.shapes[node])
        return self.builder.model(input_shape, outputs)

    def _node(self, node: fx.Node) -> Any:
        try:
            args = [self._argument(argument) for argument in node.args]
            kwargs = {key: self._argument(argument) for key, argument in node.kwargs.items()}
            if node in self.fusions.absorbed:
                return args[0]
            if node in self.fusions.lines and args[0].codes is not None:
                return line_of_hardsigmoid(self.builder, args[0])
            if node.op == "call_module":
                return self._module(node, self.modules[str(node.target)], *args, **kwargs)
            if node.op == "get_attr":
                return self._attribute(str(node.target))
            rule = FUNCTIONS.get(node.target) if node.op == "call_function" else METHODS.get(str(node.target))
            if not any(isinstance(part, Value) for part in _flat([*args, *kwargs.values()])):
                # sizes and parameters alone: computed now
                called = node.target if callable(node.target) else getattr(args.pop(0), str(node.target))
                return called(*args, **kwargs)
            if rule is not None:
                return rule(self.builder, *args, **kwargs)
        except (NotImplementedError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise self._refusal(node, str(error).splitlines()[0]) from error
        raise self._refusal(node, "there is no rule for it")

    def _module(self, node: fx.Node, module: nn.Module, x: Value, *args: Any, **kwargs: Any) -> Value:
        name, graph = str(node.target), self.builder
        if isinstance(module, ActivationQuantizer):
            return _quantize(graph, x, module) if module.enabled else x
        if isinstance(module, NORMS):
            return batch_norm(graph, x, batch_norm_affine(module))
        if isinstance(module, nn.Conv2d):
            norm = self.fusions.norms.get(node)
            affine = None if norm is None else batch_norm_affine(self.modules[str(norm.target)])
            weight, bias = array(module.weight), None if module.bias is None else array(module.bias)
            attributes = _convolution_attributes(module)
            return convolution(
                *(graph, x, weight, bias),
                codes=self.codes.get(name),
                clustered=name in self.clustered,
                norm=affine,
                integer=node in self.fusions.quantized,
                **attributes,
            )
        if isinstance(module, nn.Linear):
            bias = None if module.bias is None else array(module.bias)
            few = name in self.clustered
            return linear(graph, x, array(module.weight), bias, codes=self.codes.get(name), clustered=few)
        if isinstance(module, nn.LayerNorm):
            parts = (module.normalized_shape, module.weight, module.bias, module.eps)
            return FUNCTIONS[nn.functional.layer_norm](graph, x, *parts)
        rule, names = MODULES[type(module)]
        return rule(graph, x, *args, **kwargs, **{key: getattr(module, key) for key in names})

    def _attribute(self, target: str) -> Any:
        found: Any = self.model
        for part in target.split("."):
            found = getattr(found, part)
        return found.detach().cpu() if isinstance(found, Tensor) else found

    def _argument(self, argument: Any) -> Any:
        return fx.node.map_arg(argument, lambda node: self.values[node])

    def _refusal(self, node: fx.Node, why: str) -> TargetError:
        kind = type(self.modules[str(node.target)]).__name__ if node.op == "call_module" else ""
        operation = kind or getattr(node.target, "__name__", str(node.target))
        place = str(node.target) if kind else str(node.name)
        return TargetError(f"`model` must hold operations that ONNX export knows; found {operation} at {place}: {why}.")


def _quantize(graph: GraphBuilder, x: Value, module: ActivationQuantizer) -> Value:
    return graph.quantize(x, scale=float(module.scale), zero_point=int(module.zero_point), bits=int(module.bits))


def _convolution_attributes(module: nn.Conv2d) -> dict[str, Any]:
    if module.padding_mode != "zeros":
        raise NotImplementedError(f"padding_mode={module.padding_mode!r}")
    if module.padding == "same":
        totals = [step * (side - 1) for step, side in zip(module.dilation, module.kernel_size, strict=True)]
        pads = [total // 2 for total in totals] + [total - total // 2 for total in totals]
    else:
        pads = [0] * 4 if module.padding == "valid" else [int(side) for side in module.padding] * 2
    return {
        "kernel_shape": list(module.kernel_size),
        "strides": list(module.stride),
        "pads": pads,
        "dilations": list(module.dilation),
        "group": module.groups,
    }


def _with_shape(value: Any, shape: Any) -> Any:
    if isinstance(value, Value):
        return replace(value, shape=shape)
    if isinstance(value, tuple | list) and isinstance(shape, list) and len(value) == len(shape):
        return tuple(_with_shape(part, inner) for part, inner in zip(value, shape, strict=True))
    return value


def _named(result: Any) -> list[tuple[Value, str]]:
    parts = list(result.values()) if isinstance(result, dict) else result
    if isinstance(parts, Value):
        return [(parts, "output")]
    return [(part, f"output_{index}") for index, part in enumerate(parts) if isinstance(part, Value)]


def _flat(parts: Any) -> list[Any]:
    return [inner for part in parts for inner in (_flat(part) if isinstance(part, list | tuple) else [part])]
