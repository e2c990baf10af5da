"""Gradients through every simulator of weights, every pair and every triple of them, against the published rules.

An arbitrary gradient comes in at a layer's simulated weight. Behind masks, clusters and bits there must arrive: nothing
at a masked weight, the gradient itself at any other (straight-through), less what LSQ clips; at a codebook entry the sum
or the mean over its members; at a learned scale LSQ's equation 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forgefront.compression.attach import attach
from forgefront.compression.clustering import ClusterWeight
from forgefront.compression.pruning import latent_weight, masked_weight
from forgefront.compression.quantizers import fake_quantize, round_scale
from forgefront.compression.step_sizes import LearnedWeightQuantizer
from forgefront.studies.seeds import Seed

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@dataclass
class Expected:
    weight: Tensor
    centroids: Tensor | None = None
    step_size: Tensor | None = None


def expected_gradients(module: nn.Module, upstream: Tensor, cluster: ClusterWeight | None, quantizer: nn.Module | None):
    """What the rules say, from the simulated values alone."""
    masked = masked_weight(module).detach()
    values = masked if cluster is None else cluster(masked).detach()
    expected = Expected(upstream)
    if isinstance(quantizer, LearnedWeightQuantizer):
        expected.weight, expected.step_size = learned_step(values, upstream, quantizer)
    if cluster is not None:
        expected.centroids = codebook_gradient(masked, expected.weight, cluster)
    expected.weight = torch.where(masked != 0, expected.weight, 0.0)
    return expected


def learned_step(values: Tensor, upstream: Tensor, quantizer: LearnedWeightQuantizer) -> tuple[Tensor, Tensor]:
    """LSQ's equations 3 and 5 with g = 1 / √(N · Q_P), one scale (of 16 bits' mantissa) at a time."""
    largest = max(1, 2 ** (quantizer.bits - 1) - 1)
    steps = round_scale(quantizer.step_size.detach()).reshape(-1)
    rows, gradients = (tensor.reshape(len(steps), -1) for tensor in (values, upstream))
    passed, slopes = torch.empty_like(rows), torch.empty_like(rows)
    for index, step in enumerate(steps):
        ratio = rows[index] / step
        if quantizer.bits == 1:  # the sign times a scale: linear in the scale, and no range to leave
            passed[index], slopes[index] = gradients[index], torch.sign(ratio)
            continue
        inside = ratio.abs() < largest
        passed[index] = torch.where(inside, gradients[index], 0.0)
        slopes[index] = torch.where(inside, torch.round(ratio) - ratio, torch.sign(ratio) * largest)
    scale = 1.0 / (rows.shape[1] * largest) ** 0.5
    total = (gradients * slopes).sum(dim=1) * scale
    return passed.reshape(values.shape), total.reshape(quantizer.step_size.shape)


def codebook_gradient(masked: Tensor, upstream: Tensor, cluster: ClusterWeight) -> Tensor:
    """Sum or mean of its members' gradients for each entry; masked weights belong to none."""
    rows, gradients = (cluster._rows(tensor) for tensor in (masked, upstream))
    nearest = (rows.unsqueeze(2) - cluster.codebook().detach().unsqueeze(1)).abs().argmin(dim=2)
    entries = cluster.codebook().shape[1]
    total = torch.zeros(len(rows), entries, dtype=rows.dtype)
    for entry in range(entries):
        members = (nearest == entry) & ((rows != 0) | (cluster.zeros == "free"))
        total[:, entry] = torch.where(members, gradients, 0.0).sum(dim=1)
        if cluster.gradient == "mean":
            total[:, entry] /= members.sum(dim=1).clamp(min=1)
    # a pinned zero is no parameter
    return total[:, 1:] if cluster.zeros == "pinned" else total


def test_gradients_follow_the_published_rules(case, combined_plan, weight_combination) -> None:
    small = case("small_cnn")
    plan = combined_plan(small.layers, weight_combination)
    model = small.model(dtype=torch.float64)
    attached = attach(model, plan, small.layers, small.images(1, dtype=torch.float64), seed=Seed(0))
    attached.set_progress(1.0)
    clusters = {name: cluster for name, _, cluster in attached.clusters}
    quantizers = dict(attached.weight_quantizers)
    generator = Seed(1).torch()
    for layer in small.layers:
        module = model.get_submodule(layer.name)
        weight = module.weight
        upstream = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        weight.backward(upstream)
        cluster, quantizer = clusters.get(layer.name), quantizers.get(layer.name)
        expected = expected_gradients(module, upstream, cluster, quantizer)
        torch.testing.assert_close(latent_weight(module).grad, expected.weight, rtol=0.0, atol=0.0)
        if cluster is not None:
            torch.testing.assert_close(cluster.centroids.grad, expected.centroids, **CLOSE)
        if expected.step_size is not None:
            torch.testing.assert_close(quantizer.step_size.grad, expected.step_size, **CLOSE)


def test_outputs_pass_gradients_inside_their_range_only() -> None:
    tensor = torch.linspace(-1.0, 3.0, 41, dtype=torch.float64, requires_grad=True)
    scale, zero_point = torch.tensor(0.1), torch.tensor(2, dtype=torch.int32)
    upstream = torch.randn(41, generator=Seed(0).torch(), dtype=torch.float64)
    fake_quantize(tensor, scale, zero_point, 4).backward(upstream)
    codes = torch.round(tensor.detach() / scale) + zero_point
    assert torch.equal(tensor.grad, torch.where((codes >= 0) & (codes <= 15), upstream, 0.0))
