"""The card of a bundle: what the model is, how it was made, how it scored, how to run it, what nobody has checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from ..compression.candidate import Candidate
from ..spaces.plan import Recipe
from .bundle import BundleDescription

if TYPE_CHECKING:
    from .run import Run

__all__ = ["write_card"]


def write_card(
    run: Run,
    trial: FrozenTrial,
    candidate: Candidate,
    description: BundleDescription,
    metrics: dict[str, Any],
    folder: Path,
) -> None:
    """Write `card.md` into `folder`."""
    study, test, recipe = run.study, metrics["test"], candidate.plan.recipe
    shape = description.architecture.input_shape
    names = ", ".join(description.class_names[:12]) + (", …" if len(description.class_names) > 12 else "")
    sides = ", ".join(map(str, shape))
    lines = [
        f"# {study.study.name}, trial {trial.number}",
        "",
        f"`{description.architecture.name}` for {description.architecture.classes} classes "
        f"({names}), compressed by Forgefront {metrics['forgefront']}.",
        "",
        "## Scores",
        "",
        f"Test split, ONNX Runtime: accuracy {test['accuracy']:.2%} on the {test['images']} images that "
        "`metrics.json` names.",
        "",
        "Validation split, as the search saw them (± one standard error), beside the dense control:",
        "",
        "| metric | this model | control |",
        "|---|---|---|",
        *_score_rows(run, trial),
        "",
        "## Size",
        "",
        "| stored as | bytes |",
        "|---|---|",
        f"| `model.onnx` | {metrics['onnx_bytes']:,} |",
        f"| `model.onnx`, zipped | {metrics['onnx_zipped_bytes']:,} |",
        f"| `model.safetensors`, packed | {metrics['packed_bytes']:,} |",
        f"| Shannon bound of the layers' weights alone | {metrics['shannon_bytes']:,} |",
        "",
        "## What was done to it",
        "",
        f"Regime {recipe.regime}, {_augmentation(recipe)}, class weighting "
        f"{recipe.class_weighting} (λ = {recipe.class_weight_scale:g})"
        + (f", {recipe.method} with ε = {recipe.epsilon:.4g}." if recipe.epsilon is not None else "."),
        "",
        "| layer | weight bits | clusters | sparsity | output bits | filters removed |",
        "|---|---|---|---|---|---|",
        *_layer_rows(candidate),
        "",
        "## Running it",
        "",
        f"Input `images`: float32 (N, {sides}), RGB in [0, 1]; normalisation is inside. Output: logits.",
        "",
        "```python",
        "import numpy as np, onnxruntime",
        'session = onnxruntime.InferenceSession("model.onnx")',
        f'logits = session.run(None, {{"images": np.zeros((1, {sides}), np.float32)}})[0]',
        "```",
        "",
        'As a torch module, from the packed weights: `forgefront.load_bundle("this folder")`.',
        "",
        "## Limits",
        "",
        "Scores hold for images like those of the study's data set. Latency is a ratio to the dense control on the "
        "machine that ran the study; measure again on yours. Robustness beyond what the table states was not measured.",
        "",
    ]
    (folder / "card.md").write_text("\n".join(lines), encoding="utf-8")


def _augmentation(recipe: Recipe) -> str:
    if not recipe.augmentation_strength:
        return "no augmentation"
    return f"augmentation {recipe.augmentation} at strength {recipe.augmentation_strength:g}"


def _score_rows(run: Run, trial: FrozenTrial) -> list[str]:
    control = run.control()
    rows = []
    for name, score in trial.user_attrs.get("scores", {}).items():
        error = score.get("standard_error")
        own = f"{score['value']:.4g}" + (f" ± {error:.2g}" if error else "")
        rows.append(f"| {name} | {own} | {'–' if control is None else format(float(control[name]), '.4g')} |")
    return rows


def _layer_rows(candidate: Candidate) -> list[str]:
    removed: dict[str, int] = {name: len(indices) for name, indices in candidate.removed}
    achieved = candidate.achieved.get("layers", {})
    rows = []
    for name, plan in candidate.plan.layers.items():
        clusters = str(plan.clustering.clusters) if plan.clustering else "–"
        sparsity = achieved.get(name, {}).get("sparsity", plan.sparsity)
        weight, output = (("float" if bits == 32 else str(bits)) for bits in (plan.weight_bits, plan.activation_bits))
        rows.append(f"| {name} | {weight} | {clusters} | {sparsity:.0%} | {output} | {removed.get(name, 0)} |")
    return rows
