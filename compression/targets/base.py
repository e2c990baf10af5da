"""`Target`: where a candidate will run; it exports, checks, runs and times there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from ...studies.errors import TargetError
from .parity import MINIMUM_AGREEMENT, MINIMUM_SNR_DB, Parity, check_parity
from .timing import TimingOptions

if TYPE_CHECKING:
    from torch import Tensor

    from ...studies.seeds import Seed
    from ..candidate import Candidate
    from .timing import LatencyComparison

__all__ = ["Artefact", "AtLeastOne", "Positive", "Rounds", "Share", "Target", "simulate"]

# what options of targets may be; a study file is checked against them
AtLeastOne = Annotated[int, Field(ge=1)]
Rounds = Annotated[int, Field(ge=2)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]

DEFAULT_TIMING = TimingOptions()


@dataclass(frozen=True)
class Artefact:
    """An exported candidate.

    Args:
        target: Name of the target that made it.
        path: The file.
        bytes: Its size.
        zipped_bytes: Its size inside a zip archive.
        details: JSON values; "input_shape" is (C, H, W), "versions" are those of the packages that made the file.
    """

    target: str
    path: Path
    bytes: int
    zipped_bytes: int
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the path is reduced to the file's name, so that a run folder can be moved."""
        return {**asdict(self), "path": self.path.name}

    @classmethod
    def from_dict(cls, data: dict[str, Any], folder: Path) -> Artefact:
        """The artefact that `to_dict` described, in `folder`."""
        return cls(**{**data, "path": folder / data["path"]})


class Target(ABC):
    """A runtime on a device. Options are the constructor's keywords.

    Args:
        batch_size: Images of one timed inference.
        timing: How long to measure.
        minimum_snr_db: Gate of `verify`: lowest signal-to-noise ratio of exported against simulated outputs.
        minimum_agreement: Gate of `verify`: lowest share of equal predictions.
    """

    name: ClassVar[str]
    minimum_activation_bits: ClassVar[int] = 2

    def __init__(
        self,
        *,
        batch_size: int = 1,
        timing: TimingOptions = DEFAULT_TIMING,
        minimum_snr_db: float = MINIMUM_SNR_DB,
        minimum_agreement: float = MINIMUM_AGREEMENT,
    ) -> None:
        self.batch_size = batch_size
        self.timing = timing
        self.minimum_snr_db = minimum_snr_db
        self.minimum_agreement = minimum_agreement

    @abstractmethod
    def check_available(self) -> None:
        """Raise `TargetError` or `DeviceError`, in one line, when this machine cannot serve the target."""

    @abstractmethod
    def export(self, candidate: Candidate, folder: Path, example: Tensor) -> Artefact:
        """Write the candidate into `folder` (made if absent); `example` is one image (1, C, H, W) float.

        Raises:
            TargetError: The runtime cannot take the model.
        """

    @abstractmethod
    def run(self, artefact: Artefact, images: np.ndarray) -> np.ndarray:
        """Outputs (N, …) float32 for `images` (N, C, H, W) float32."""

    @abstractmethod
    def time(self, artefact: Artefact, reference: Artefact, *, seed: Seed) -> LatencyComparison:
        """Latency of `artefact` against `reference`, measured together in shuffled rounds."""

    def restore(self, artefact: Artefact, candidate: Candidate) -> None:  # noqa: B027
        """Make an artefact from an earlier process usable again, where the file alone does not suffice."""

    def release(self, artefact: Artefact) -> None:
        """Forget what was kept ready for an artefact that is not measured again in this process."""
        del artefact  # most runtimes keep nothing

    def check_activation_bits(self, bits: Sequence[int]) -> None:
        """Raise `TargetError`, in one line, when outputs of so few bits cannot run here as they were simulated."""
        if bits and min(bits) < self.minimum_activation_bits:
            least = self.minimum_activation_bits
            raise TargetError(
                f"`space.activation_bits` must be at least {least} with target {self.name}; found {min(bits)}."
            )

    def verify(
        self,
        candidate: Candidate,
        artefact: Artefact,
        images: np.ndarray,
        *,
        predictions: Callable[[np.ndarray], np.ndarray],
    ) -> Parity:
        """Compare candidate and artefact on `images` (N, C, H, W) float32.

        Raises:
            ParityError: They disagree by more than this target's gates.
        """
        return check_parity(
            simulate(candidate, images),
            self.run(artefact, images),
            predictions=predictions,
            minimum_snr_db=self.minimum_snr_db,
            minimum_agreement=self.minimum_agreement,
        )


def simulate(candidate: Candidate, images: np.ndarray, *, batch_size: int = 128) -> np.ndarray:
    """Outputs (N, …) float32 of the candidate itself, on the device where it is."""
    import torch

    device = next(candidate.model.parameters()).device
    with torch.no_grad():
        batches = [torch.from_numpy(images[i : i + batch_size]).to(device) for i in range(0, len(images), batch_size)]
        return np.concatenate([candidate.model(batch).float().cpu().numpy() for batch in batches])
