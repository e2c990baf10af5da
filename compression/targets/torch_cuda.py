"""Target ``torch-cuda``: float16, channels_last and a CUDA graph in PyTorch on one GPU.

PyTorch has no integer convolution on CUDA, so bits make nothing faster here, only fewer channels do. Weights keep their
quantized values, and activation quantizers stay in the graph as one fused kernel each: what runs is what was scored,
and a little slower than the float model. Below 8 bits float16 rounding moves outputs by whole steps, so it is refused.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from ...studies.errors import DeviceError, TargetError
from ...studies.seeds import Seed
from .base import Artefact, AtLeastOne, Positive, Rounds, Share, Target
from .exclusive import alone
from .parity import MINIMUM_AGREEMENT, MINIMUM_SNR_DB
from .size import file_bytes, zipped_bytes
from .timing import LatencyComparison, Timed, TimingOptions, compare

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..candidate import Candidate
    from ..quantizers import ActivationQuantizer

__all__ = ["TorchCUDA", "half_precision"]

FILE = "model_fp16.safetensors"
RUN_BATCH = 256
CAPTURE_WARM_UP = 5


def half_precision(model: nn.Module) -> nn.Module:
    """A float16, channels_last copy of `model` with each frozen activation quantizer fused into one kernel."""
    import torch

    from ..quantizers import ActivationQuantizer

    half = copy.deepcopy(model).eval()
    for name, module in list(half.named_modules()):
        if isinstance(module, ActivationQuantizer):
            half.set_submodule(name, _fused(module))
    return half.half().to(memory_format=torch.channels_last)


def _fused(quantizer: ActivationQuantizer) -> nn.Module:
    import torch

    class FusedQuantizer(torch.nn.Module):
        scale, zero_point = float(quantizer.scale), int(quantizer.zero_point)
        highest = 2**quantizer.bits - 1

        def forward(self, outputs: Tensor) -> Tensor:
            return torch.fake_quantize_per_tensor_affine(outputs, self.scale, self.zero_point, 0, self.highest)

    return FusedQuantizer()


class TorchCUDA(Target):
    """PyTorch on a CUDA GPU; latencies are of a graph replayed with weights and activations hot in the L2 cache.

    The file holds weights alone, so a target runs the artefacts that it exported, or that `restore` gave it.

    Args:
        device: Number of the GPU.
        batch_size: Images of one timed inference.
        rounds: At most so many timed rounds.
        maximum_seconds: At most so many seconds of timed rounds.
        minimum_snr_db: See `Target`.
        minimum_agreement: See `Target`.
    """

    name = "torch-cuda"
    minimum_activation_bits = 8

    def __init__(
        self,
        *,
        device: Annotated[int, Field(ge=0)] = 0,
        batch_size: AtLeastOne = 1,
        rounds: Rounds = 200,
        maximum_seconds: Positive = 2.0,
        minimum_snr_db: float = MINIMUM_SNR_DB,
        minimum_agreement: Share = MINIMUM_AGREEMENT,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            timing=TimingOptions(rounds=rounds, maximum_seconds=maximum_seconds, warm_up=0.2),
            minimum_snr_db=minimum_snr_db,
            minimum_agreement=minimum_agreement,
        )
        self.device = f"cuda:{device}"
        self.index = device
        self._models: dict[Path, nn.Module] = {}

    def check_available(self) -> None:
        """A CUDA build of PyTorch and the GPU must be there."""
        import torch

        if not torch.cuda.is_available():
            raise DeviceError("`target` torch-cuda must have a CUDA GPU; found none. Use onnxruntime-cpu instead.")
        if self.index >= torch.cuda.device_count():
            raise DeviceError(
                f"`target.device` must be one of {list(range(torch.cuda.device_count()))}; found {self.index}."
            )

    def export(self, candidate: Candidate, folder: Path, example: Tensor) -> Artefact:
        """Write ``model_fp16.safetensors`` and keep the float16 model ready on the GPU."""
        import torch
        from safetensors.torch import save_file

        self.check_available()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        half = half_precision(candidate.model)
        save_file({name: value.cpu().contiguous().clone() for name, value in half.state_dict().items()}, path)
        self._models[path] = half.to(self.device)
        details = {"input_shape": list(example.shape[1:]), "dtype": "float16", "versions": {"torch": torch.__version__}}
        return Artefact(self.name, path, file_bytes(path), zipped_bytes(path), details)

    def restore(self, artefact: Artefact, candidate: Candidate) -> None:
        """Make the float16 model of `artefact` again from its candidate."""
        self.check_available()
        self._models[artefact.path] = half_precision(candidate.model).to(self.device)

    def release(self, artefact: Artefact) -> None:
        """Give its memory on the GPU back."""
        self._models.pop(artefact.path, None)

    def run(self, artefact: Artefact, images: np.ndarray) -> np.ndarray:
        """Outputs (N, …) float32 for `images` (N, C, H, W) float32."""
        import torch

        model = self._model(artefact)
        outputs = []
        with torch.inference_mode():
            for i in range(0, len(images), RUN_BATCH):
                batch = torch.from_numpy(images[i : i + RUN_BATCH]).to(self.device, torch.float16)
                outputs.append(model(batch.contiguous(memory_format=torch.channels_last)).float().cpu().numpy())
        return np.concatenate(outputs)

    def time(self, artefact: Artefact, reference: Artefact, *, seed: Seed) -> LatencyComparison:
        """Latency of one replay with `batch_size` images, paired with `reference`, while no one else measures here."""
        import torch

        shape = tuple(artefact.details["input_shape"])
        images = seed.child("images").numpy().random((self.batch_size, *shape), dtype=np.float32)
        details = {
            "batch_size": self.batch_size,
            "device": torch.cuda.get_device_name(self.index),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cache": "hot",
        }
        with alone(self.device), torch.cuda.device(self.index), torch.inference_mode():
            candidate, other = self.timed(artefact, images), self.timed(reference, images)
            return compare(candidate, other, options=self.timing, seed=seed.child("order"), details=details)

    def _model(self, artefact: Artefact) -> nn.Module:
        if artefact.path not in self._models:
            raise TargetError(f"`artefact` {artefact.path.name} must be exported or restored in this process first.")
        return self._models[artefact.path]

    def timed(self, artefact: Artefact, images: np.ndarray) -> Timed:
        """The model captured in a CUDA graph with `images` (N, C, H, W), timed by CUDA events.

        For whoever holds the device's lock, with this device the current one and in inference mode.
        """
        import torch

        model = self._model(artefact)
        batch = torch.from_numpy(images).to(self.device, torch.float16).contiguous(memory_format=torch.channels_last)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(CAPTURE_WARM_UP):
                model(batch)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            model(batch)
        start: Any = torch.cuda.Event(enable_timing=True)
        end: Any = torch.cuda.Event(enable_timing=True)

        # the graph reads its input and weights in place, so they must live as long as it does
        def timed(repeats: int, _alive: Any = (batch, model)) -> float:
            start.record()
            for _ in range(repeats):
                graph.replay()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) / 1e3 / repeats

        return timed
