"""The sixteen compression techniques of Castro et al. (Table II) as plans: half of the weights, 16 clusters, int8.

"Evaluating the Impact of Compression Techniques on the Robustness of CNNs under Natural Corruptions"; the settings are
those of its Table III, or TF-MOT's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..studies.schema_space import TECHNIQUE_NAMES
from .plan import FLOAT_BITS, Clustering, LayerPlan, Pruning, Quantization, Recipe, Stages, TrialPlan

if TYPE_CHECKING:
    from .layers import LayerInfo

__all__ = ["CLUSTERS", "SPARSITY", "TECHNIQUES", "technique"]

SPARSITY = 0.5
CLUSTERS = 16

# sparsity is reached half way through its stage; the other half recovers from it
_GROWTH = 0.5


@dataclass(frozen=True)
class _Technique:
    """What a technique does.

    Args:
        title: As in Table II.
        stages: What is trained, one stage after the other, out of ``prune``, ``cluster`` and ``quantize``.
        post: Quantized to eight bits after training.
        export: What ships where quantization was simulated in training: floats, or integers.
    """

    title: str
    stages: tuple[str, ...] = ()
    post: bool = False
    export: str = "integer"


_P, _C, _Q = "prune", "cluster", "quantize"

_TABLE = (
    _Technique("Original"),
    _Technique("Quantization Int8", post=True),
    _Technique("Sparsity (Pruning)", (_P,)),
    _Technique("Sparsity with Quantization Int8", (_P,), post=True),
    _Technique("Clustering (Weight Sharing)", (_C,)),
    _Technique("Clustering with Quantization Int8", (_C,), post=True),
    _Technique("Sparsity preserving Clustering", (_P, _C)),
    _Technique("Sparsity preserving Clustering with Quantization Int8", (_P, _C), post=True),
    _Technique("Quantization Aware Training (QAT)", (_Q,), export="float"),
    _Technique("QAT with Quantization Int8", (_Q,)),
    _Technique("Clustering preserving QAT (CQAT)", (_C, _Q), export="float"),
    _Technique("CQAT with Quantization Int8", (_C, _Q)),
    _Technique("Sparsity preserving QAT (PQAT)", (_P, _Q), export="float"),
    _Technique("PQAT with Quantization Int8", (_P, _Q)),
    _Technique("Pruning preserving Clustering preserving QAT (PCQAT)", (_P, _C, _Q), export="float"),
    _Technique("PCQAT with Quantization Int8", (_P, _C, _Q)),
)
_BY_NAME = dict(zip(TECHNIQUE_NAMES, _TABLE, strict=True))

TECHNIQUES: dict[str, str] = {name: row.title for name, row in _BY_NAME.items()}
"""``technique-1`` to ``technique-16``, the codes of Table II, with their titles there."""


def technique(name: str, layers: Sequence[LayerInfo], *, pretrained: bool, recipe: Recipe | None = None) -> TrialPlan:
    """The plan of one technique.

    Every technique is given the same training, which its stages (prune, cluster, quantize) share equally; in the paper
    each stage is a training of its own, so that techniques with more stages had been trained for longer. From scratch
    a dense stage as long as the others comes first: magnitudes and clusters of random weights mean nothing.
    Techniques 1 and 2 leave a checkpoint as it is (budget 0); a dense model trained like the others is a study's
    control.

    - Pruning: 50 % of each kernel by magnitude, growing over the first half of its stage (Zhu & Gupta 2017).
    - Clustering: 16 k-means++ seeds without Lloyd's iterations, as TF-MOT has it; training moves them. Gradients of a
      cluster's members are averaged, where TF-MOT adds them up: sums grow with the layer, and diverged under SGD.
    - Quantization: eight bits for the weights and outputs of every layer, first and last included; the network's own
      output stays float. Where training simulates it, every operation that the runtime quantizes is simulated; the
      paper's technique 10 annotated convolutions and dense layers only, and collapsed when it was converted.
    - Depthwise kernels are neither pruned nor clustered, as in TF-MOT; they are quantized.

    Args:
        name: A key of `TECHNIQUES`.
        layers: The layers to compress.
        pretrained: Training starts from a trained checkpoint (``task.model.weights``). A model's own option
            ``pretrained`` is none: its weights come from other data and its head is random, so a dense stage comes
            first all the same.
        recipe: How the network is trained; the default `Recipe` when None.

    Raises:
        ValueError: There is no such technique.
    """
    if name not in _BY_NAME:
        raise ValueError(f"`name` must be technique-1 to technique-{len(TECHNIQUES)}; found {name!r}.")
    found, recipe = _BY_NAME[name], recipe or Recipe()
    if not found.stages and pretrained:
        recipe = replace(recipe, budget=0.0)
    plans = {layer.name: _layer_plan(found, layer) for layer in layers}
    return TrialPlan(
        {name: plan for name, plan in plans.items() if plan != LayerPlan()}, recipe, _stages(found.stages, pretrained)
    )


def _layer_plan(found: _Technique, layer: LayerInfo) -> LayerPlan:
    dense_kernel = layer.kind != "depthwise"
    return LayerPlan(
        pruning=Pruning(SPARSITY) if _P in found.stages and dense_kernel else None,
        clustering=Clustering(CLUSTERS, lloyd_iterations=0) if _C in found.stages and dense_kernel else None,
        quantization=_quantization(found, FLOAT_BITS if layer.last else 8),
    )


def _quantization(found: _Technique, activation_bits: int) -> Quantization | None:
    if found.post:
        return Quantization("post", 8, activation_bits)
    if _Q not in found.stages:
        return None
    return Quantization("aware", 8, activation_bits, export="float" if found.export == "float" else "integer")


def _stages(stages: tuple[str, ...], pretrained: bool) -> Stages | None:
    """When each stage begins: they are equally long, and a dense one comes first unless the model is pretrained."""
    if not stages:
        return None
    count = len(stages) if pretrained else len(stages) + 1
    starts = {stage: position / count for position, stage in enumerate(stages, start=count - len(stages))}
    prune = starts.get(_P, 0.0)
    return Stages(
        prune_start=prune,
        prune_end=prune + _GROWTH / count if _P in starts else prune,
        cluster=starts.get(_C, 1.0),
        quantize=starts.get(_Q, 1.0),
    )
