"""Which rule writes which torch function, method or module; a new operation is a rule and a line here."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth, stochastic_depth

from .onnx_arithmetic import (
    adaptive_average_pool,
    adaptive_max_pool,
    arithmetic,
    average_pool,
    clip,
    elementwise,
    elu,
    gelu,
    hardsigmoid,
    hardtanh,
    layer_norm,
    leaky_relu,
    max_pool,
    mean,
    relu,
    silu,
    softmax,
)
from .onnx_movement import (
    attribute,
    channel_shuffle,
    chunk,
    concatenate,
    flatten,
    getitem,
    identity,
    index_select,
    narrow,
    pad,
    permute,
    pixel_shuffle,
    rank,
    reshape,
    size,
    split,
    squeeze,
    transpose,
    unsqueeze,
    zero_pad,
)

__all__ = ["FUNCTIONS", "METHODS", "MODULES"]

Rule = Callable[..., Any]

_UNARY = {
    "Sigmoid": [torch.sigmoid, F.sigmoid, nn.Sigmoid, "sigmoid"],
    "Tanh": [torch.tanh, F.tanh, nn.Tanh, "tanh"],
    "HardSwish": [F.hardswish, nn.Hardswish],
    "Mish": [F.mish, nn.Mish],
    "Sqrt": [torch.sqrt, "sqrt"],
    "Exp": [torch.exp, "exp"],
    "Abs": [torch.abs, "abs"],
    "Neg": [torch.neg, operator.neg, "neg"],
}
_BINARY = {
    "Add": [torch.add, operator.add, operator.iadd, "add", "add_"],
    "Sub": [torch.sub, operator.sub, operator.isub, "sub", "sub_"],
    "Mul": [torch.mul, operator.mul, operator.imul, "mul", "mul_"],
    "Div": [torch.div, operator.truediv, operator.itruediv, "div", "div_"],
}
_RULES: list[tuple[Rule, list[Any]]] = [
    *[(elementwise(name), keys) for name, keys in _UNARY.items()],
    *[(arithmetic(name), keys) for name, keys in _BINARY.items()],
    (relu, [F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"]),
    (clip, [torch.clamp, torch.clip, "clamp", "clip", "clamp_"]),
    (hardtanh, [F.hardtanh]),
    (lambda graph, x, inplace=False: clip(graph, x, 0.0, 6.0), [F.relu6]),
    (hardsigmoid, [F.hardsigmoid]),
    (silu, [F.silu]),
    (gelu, [F.gelu]),
    (leaky_relu, [F.leaky_relu]),
    (elu, [F.elu]),
    (softmax, [F.softmax, torch.softmax, "softmax"]),
    (concatenate, [torch.cat, torch.concat, torch.concatenate]),
    (max_pool, [F.max_pool2d, torch.max_pool2d]),
    (average_pool, [F.avg_pool2d]),
    (adaptive_average_pool, [F.adaptive_avg_pool2d]),
    (mean, [torch.mean, "mean"]),
    (flatten, [torch.flatten, "flatten"]),
    (reshape, [torch.reshape, "reshape", "view"]),
    (permute, [torch.permute, "permute"]),
    (transpose, [torch.transpose, torch.swapaxes, "transpose", "swapaxes"]),
    (squeeze, [torch.squeeze, "squeeze"]),
    (unsqueeze, [torch.unsqueeze, "unsqueeze"]),
    (split, [torch.split, "split"]),
    (chunk, [torch.chunk, "chunk"]),
    (getitem, [operator.getitem]),
    (pad, [F.pad, torch._C._nn.pad]),
    (index_select, [torch.index_select, "index_select"]),
    (narrow, [torch.narrow, "narrow"]),
    (pixel_shuffle, [F.pixel_shuffle]),
    (channel_shuffle, [F.channel_shuffle]),
    (adaptive_max_pool, [F.adaptive_max_pool2d]),
    (layer_norm, [F.layer_norm]),
    (size, ["size"]),
    (rank, ["dim"]),
    (attribute, [getattr]),
    (identity, [F.dropout, F.dropout2d, stochastic_depth, "contiguous", "clone", "detach"]),
]

FUNCTIONS: dict[Any, Rule] = {key: rule for rule, keys in _RULES for key in keys if not isinstance(key, str | type)}
METHODS: dict[str, Rule] = {key: rule for rule, keys in _RULES for key in keys if isinstance(key, str)}

# Modules without weights: the rule and the attributes that become its keyword arguments.
MODULES: dict[type[nn.Module], tuple[Rule, tuple[str, ...]]] = {
    **{key: (rule, ()) for rule, keys in _RULES for key in keys if isinstance(key, type)},
    nn.ReLU: (relu, ()),
    nn.ReLU6: (hardtanh, ("min_val", "max_val")),
    nn.Hardtanh: (hardtanh, ("min_val", "max_val")),
    nn.Hardsigmoid: (hardsigmoid, ()),
    nn.SiLU: (silu, ()),
    nn.GELU: (gelu, ("approximate",)),
    nn.LeakyReLU: (leaky_relu, ("negative_slope",)),
    nn.ELU: (elu, ("alpha",)),
    nn.Softmax: (softmax, ("dim",)),
    nn.MaxPool2d: (max_pool, ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")),
    nn.AvgPool2d: (
        average_pool,
        ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    nn.AdaptiveAvgPool2d: (adaptive_average_pool, ("output_size",)),
    nn.AdaptiveMaxPool2d: (adaptive_max_pool, ("output_size", "return_indices")),
    nn.ZeroPad2d: (zero_pad, ("padding",)),
    nn.PixelShuffle: (pixel_shuffle, ("upscale_factor",)),
    nn.ChannelShuffle: (channel_shuffle, ("groups",)),
    nn.Flatten: (flatten, ("start_dim", "end_dim")),
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, StochasticDepth), (identity, ())),
}
