"""Target ``onnxruntime-cpu``: int8 QDQ or float ONNX in ONNX Runtime on a fixed number of CPU threads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...studies.errors import TargetError
from ...studies.seeds import Seed
from .base import Artefact, AtLeastOne, Positive, Rounds, Share, Target
from .exclusive import alone
from .parity import MINIMUM_AGREEMENT, MINIMUM_SNR_DB
from .size import file_bytes, zipped_bytes
from .timing import LatencyComparison, Timed, TimingOptions, compare, wall_clock

if TYPE_CHECKING:
    from torch import Tensor

    from ..candidate import Candidate

__all__ = ["OnnxRuntimeCPU", "open_session", "session_options"]

FILE = "model.onnx"
RUN_BATCH = 128


def session_options(*, threads: int) -> Any:
    """Options of an ONNX Runtime session with every optimisation, `threads` threads and no spinning.

    Spinning threads would take the processor from other trials and from the model measured beside this one.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def open_session(path: Path, *, threads: int) -> Any:
    """An ONNX Runtime session with `session_options`."""
    import onnxruntime

    options = session_options(threads=threads)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions share no base but this
        reason = str(error).splitlines()[0]
        raise TargetError(f"`target` onnxruntime-cpu must be able to load {path.name}; {reason}") from error


def _shipped_as_float(candidate: Candidate) -> set[str]:
    """Layers whose simulated weights are shipped as floats, as a model is before it is converted to integers."""
    parts = {name: plan.quantization for name, plan in candidate.plan.layers.items()}
    return {name for name, part in parts.items() if part is not None and part.export == "float"}


class OnnxRuntimeCPU(Target):
    """ONNX Runtime on the CPU.

    Args:
        threads: CPU threads of one inference.
        batch_size: Images of one timed inference.
        rounds: At most so many timed rounds.
        maximum_seconds: At most so many seconds of timed rounds.
        minimum_snr_db: See `Target`.
        minimum_agreement: See `Target`.
    """

    name = "onnxruntime-cpu"

    def __init__(
        self,
        *,
        threads: AtLeastOne = 1,
        batch_size: AtLeastOne = 1,
        rounds: Rounds = 100,
        maximum_seconds: Positive = 2.0,
        minimum_snr_db: float = MINIMUM_SNR_DB,
        minimum_agreement: Share = MINIMUM_AGREEMENT,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            timing=TimingOptions(rounds=rounds, maximum_seconds=maximum_seconds),
            minimum_snr_db=minimum_snr_db,
            minimum_agreement=minimum_agreement,
        )
        self.threads = threads

    def check_available(self) -> None:
        """ONNX and ONNX Runtime must be importable."""
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
        except ImportError as error:
            raise TargetError(f"`target` onnxruntime-cpu must have onnx and onnxruntime installed; {error}.") from None

    def export(self, candidate: Candidate, folder: Path, example: Tensor) -> Artefact:
        """Write ``model.onnx``; equal candidates give equal bytes."""
        import onnx
        import onnxruntime

        from .onnx_graph import emit

        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        as_float = _shipped_as_float(candidate)
        codes = {name: layer for name, layer in candidate.codes.items() if name not in as_float}
        clustered = candidate.codebooks.keys() - as_float
        model = emit(candidate.model, codes, example, clustered=clustered)
        path.write_bytes(model.SerializeToString(deterministic=True))
        details = {
            "input_shape": list(example.shape[1:]),
            "opset": model.opset_import[0].version,
            "ir_version": model.ir_version,
            "versions": {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        }
        return Artefact(self.name, path, file_bytes(path), zipped_bytes(path), details)

    def run(self, artefact: Artefact, images: np.ndarray) -> np.ndarray:
        """Outputs (N, …) float32 for `images` (N, C, H, W) float32; the first output where there are several."""
        session = open_session(artefact.path, threads=self.threads)
        starts = range(0, len(images), RUN_BATCH)
        return np.concatenate([session.run(None, {"images": images[i : i + RUN_BATCH]})[0] for i in starts])

    def time(self, artefact: Artefact, reference: Artefact, *, seed: Seed) -> LatencyComparison:
        """Latency of one inference of `batch_size` images, paired with `reference`, while no one else measures here."""
        import onnxruntime

        shape = tuple(artefact.details["input_shape"])
        images = seed.child("images").numpy().random((self.batch_size, *shape), dtype=np.float32)
        details = {"batch_size": self.batch_size, "threads": self.threads, "onnxruntime": onnxruntime.__version__}
        with alone("cpu"):
            candidate, other = self.timed(artefact, images), self.timed(reference, images)
            return compare(candidate, other, options=self.timing, seed=seed.child("order"), details=details)

    def timed(self, artefact: Artefact, images: np.ndarray) -> Timed:
        """The model loaded with its input in place, (N, C, H, W) float32, for whoever holds the CPU's lock."""
        session = open_session(artefact.path, threads=self.threads)
        binding = session.io_binding()
        binding.bind_cpu_input("images", images)
        for output in session.get_outputs():
            binding.bind_output(output.name)
        return wall_clock(lambda: session.run_with_iobinding(binding))
