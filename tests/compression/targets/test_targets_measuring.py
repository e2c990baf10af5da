"""Parity, size, timing and the lock on a device."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from torch import nn

from forgefront.compression.targets.onnxruntime_cpu import OnnxRuntimeCPU
from forgefront.compression.targets.parity import check_parity, signal_to_noise
from forgefront.compression.targets.size import file_bytes, zipped_bytes, zipped_layer_bytes
from forgefront.compression.targets.timing import TimingOptions, compare, wall_clock
from forgefront.studies.errors import ParityError
from forgefront.studies.seeds import Seed
from forgefront.trainers.models.cifar_resnet import resnet20


def predictions(outputs):
    return outputs.argmax(axis=1)


OUTPUTS = np.random.default_rng(0).normal(size=(200, 10)).astype(np.float32)


def test_signal_to_noise_is_in_decibels():
    assert signal_to_noise(OUTPUTS, OUTPUTS) == float("inf")
    assert signal_to_noise(OUTPUTS, OUTPUTS * 1.1) == pytest.approx(20.0, abs=1e-3)
    assert signal_to_noise(OUTPUTS, OUTPUTS * 1.01) == pytest.approx(40.0, abs=1e-3)


def test_equal_outputs_pass():
    parity = check_parity(OUTPUTS, OUTPUTS + np.float32(1e-4), predictions=predictions)
    assert parity.agreement == 1.0
    assert parity.snr_db > 70.0
    assert parity.images == 200
    assert check_parity(OUTPUTS, OUTPUTS, predictions=predictions).to_dict()["snr_db"] is None


UNEQUAL = {
    "noise": OUTPUTS + np.random.default_rng(1).normal(size=OUTPUTS.shape),
    "shape": OUTPUTS[:, :9],
    "permuted": OUTPUTS[:, ::-1],
    "infinite": np.where(OUTPUTS > 2, np.inf, OUTPUTS),
}


@pytest.mark.parametrize("name", UNEQUAL)
def test_outputs_that_differ_are_refused_in_one_line(name):
    with pytest.raises(ParityError) as error:
        check_parity(OUTPUTS, UNEQUAL[name], predictions=predictions)
    assert "\n" not in str(error.value)


def test_the_refusal_states_both_figures():
    with pytest.raises(ParityError, match=r"20 dB and 98\.0% .* found -?\d+\.\d dB and \d+\.\d% on 200 images"):
        check_parity(OUTPUTS, UNEQUAL["noise"], predictions=predictions)


def test_agreement_is_a_gate_of_its_own():
    near = OUTPUTS.copy()
    near[:20] = near[:20, ::-1]
    with pytest.raises(ParityError, match=r"90\.0%"):
        check_parity(OUTPUTS, near, predictions=predictions, minimum_snr_db=0.0)


def test_zipped_bytes_are_those_of_an_archive_and_repeat(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"abc" * 10_000)
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as archived:
        archived.write(path, "model")
    assert file_bytes(path) == 30_000
    assert zipped_bytes(path) == zipped_bytes(path)
    assert abs(zipped_bytes(path) - archive.stat().st_size) < 64


def synthetic(seconds):
    """A model whose runs take a stated time, without a clock."""
    return lambda repeats: seconds


QUICK = TimingOptions(rounds=50, minimum_rounds=10, warm_up=0.001)


def test_the_ratio_is_reference_over_candidate():
    found = compare(synthetic(0.001), synthetic(0.003), options=QUICK, seed=Seed(0))
    assert found.speedup == pytest.approx(3.0)
    assert found.minimum_speedup == pytest.approx(3.0)
    assert found.speedup_iqr == pytest.approx((3.0, 3.0))
    assert found.latency_ms == pytest.approx(1.0)
    assert found.reference_ms == pytest.approx(3.0)


def test_a_precise_ratio_stops_early_and_a_noisy_one_goes_on():
    noise = np.random.default_rng(0)
    precise = compare(synthetic(0.001), synthetic(0.003), options=QUICK, seed=Seed(0))
    noisy = compare(lambda repeats: noise.uniform(0.001, 0.01), synthetic(0.003), options=QUICK, seed=Seed(0))
    assert precise.rounds == QUICK.minimum_rounds
    assert noisy.rounds == QUICK.rounds


def test_a_drift_of_the_machine_does_not_reach_the_ratio():
    speed = iter(np.repeat(np.linspace(1.0, 3.0, 10_000), 2))

    def drifting(factor):
        return lambda repeats: factor * next(speed)

    found = compare(drifting(0.001), drifting(0.002), options=TimingOptions(warm_up=1e-4), seed=Seed(0))
    assert found.speedup == pytest.approx(2.0, rel=0.01)


def test_order_within_rounds_is_shuffled_by_the_seed():
    calls: list[str] = []

    def recorded(name):
        def timed(repeats):
            calls.append(name)
            return 0.5

        return timed

    def order(seed):
        calls.clear()
        compare(recorded("c"), recorded("r"), options=TimingOptions(warm_up=1e-9), seed=seed)
        return "".join(calls[-30:])

    first, second, third = order(Seed(1)), order(Seed(1)), order(Seed(2))
    assert first == second != third
    assert {first[i : i + 2] for i in range(0, 30, 2)} == {"cr", "rc"}


def test_wall_clock_gives_the_seconds_of_one_run():
    runs: list[int] = []
    assert 0.0 <= wall_clock(lambda: runs.append(1))(7) < 1.0
    assert len(runs) == 7


@pytest.mark.parametrize("bits", [32, 8, 4])
def test_zipped_layers_make_up_the_zipped_file(bits, candidates, tmp_path):
    model, images = candidates.seeded(lambda: resnet20(10)), candidates.images(2)
    candidate = candidates.dense(model) if bits == 32 else candidates.quantized(model, bits, 8, images)
    path = OnnxRuntimeCPU().export(candidate, tmp_path, images[:1]).path
    layers = zipped_layer_bytes(path)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert list(layers) == names
    assert sum(layers.values()) == pytest.approx(zipped_bytes(path), rel=0.06)
    assert layers["layer3.2.conv2"] > 10 * layers["conv1"]
