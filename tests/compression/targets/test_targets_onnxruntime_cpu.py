"""The target as it is used: an artefact that runs without torch, a comparison with spread, clear refusals."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from forgefront.compression.targets.base import Artefact
from forgefront.compression.targets.onnxruntime_cpu import OnnxRuntimeCPU
from forgefront.studies.errors import DeviceError, TargetError
from forgefront.studies.seeds import Seed
from forgefront.trainers.models.digits_cnn import digits_cnn

ALONE = """
import sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
outputs = session.run(None, {"images": numpy.load(sys.argv[2])})[0]
assert "torch" not in sys.modules and "forgefront" not in sys.modules
numpy.save(sys.argv[3], outputs)
"""


def test_the_file_runs_with_numpy_and_onnxruntime_alone(candidates, tmp_path):
    images = candidates.images(5)
    target = OnnxRuntimeCPU()
    candidate = candidates.quantized(candidates.seeded(lambda: digits_cnn(10)), 8, 8, images)
    artefact = target.export(candidate, tmp_path, images[:1])
    np.save(tmp_path / "images.npy", images.numpy())
    arguments = [str(artefact.path), str(tmp_path / "images.npy"), str(tmp_path / "outputs.npy")]
    subprocess.run([sys.executable, "-c", ALONE, *arguments], check=True, timeout=60)
    assert np.array_equal(np.load(tmp_path / "outputs.npy"), target.run(artefact, images.numpy()))


def test_an_artefact_states_what_it_was_written_with(candidates, tmp_path):
    images = candidates.images(1)
    artefact = OnnxRuntimeCPU().export(candidates.dense(candidates.seeded(lambda: digits_cnn(10))), tmp_path, images)
    model = onnx.load(artefact.path)
    assert artefact.details == {
        "input_shape": [3, 32, 32],
        "opset": model.opset_import[0].version,
        "ir_version": model.ir_version,
        "versions": {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
    }
    assert Artefact.from_dict(json.loads(json.dumps(artefact.to_dict())), tmp_path) == artefact


def test_outputs_do_not_depend_on_how_images_are_batched(candidates, tmp_path):
    images = candidates.images(130)
    target = OnnxRuntimeCPU()
    artefact = target.export(candidates.dense(candidates.seeded(lambda: digits_cnn(10))), tmp_path, images[:1])
    whole = target.run(artefact, images.numpy())
    assert whole.shape == (130, 10)
    np.testing.assert_allclose(whole[128:], target.run(artefact, images[128:].numpy()), rtol=1e-5, atol=1e-6)


def test_a_comparison_states_its_figures_and_circumstances(candidates, tmp_path):
    images = candidates.images(4)
    target = OnnxRuntimeCPU(rounds=8, maximum_seconds=0.5, batch_size=2)
    model = candidates.seeded(lambda: digits_cnn(10))
    reference = target.export(candidates.dense(model), tmp_path / "dense", images[:1])
    artefact = target.export(candidates.quantized(model, 8, 8, images), tmp_path / "int8", images[:1])
    found = target.time(artefact, reference, seed=Seed(0))
    low, high = found.speedup_iqr
    assert 0.0 < found.minimum_ms <= found.latency_ms
    assert found.reference_ms > 0.0
    assert low <= found.speedup <= high
    assert 2 <= found.rounds <= 8
    assert {"batch_size", "threads", "onnxruntime", "load_average"} <= set(found.details)
    assert found.details["batch_size"] == 2
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_an_artefact_survives_json(candidates, tmp_path):
    target = OnnxRuntimeCPU()
    candidate = candidates.dense(candidates.seeded(lambda: digits_cnn(10)))
    artefact = target.export(candidate, tmp_path, candidates.images(1))
    assert Artefact.from_dict(json.loads(json.dumps(artefact.to_dict())), tmp_path) == artefact


def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    artefact = Artefact("onnxruntime-cpu", path, 11, 11, {"input_shape": [3, 8, 8]})
    with pytest.raises(TargetError, match=r"model\.onnx") as error:
        OnnxRuntimeCPU().run(artefact, np.zeros((1, 3, 8, 8), np.float32))
    assert "\n" not in str(error.value)


def test_a_gpu_that_is_not_there_is_refused_in_one_line():
    import torch

    from forgefront.compression.targets.torch_cuda import TorchCUDA

    missing = torch.cuda.device_count()
    with pytest.raises(DeviceError, match=r"GPU|device") as error:
        TorchCUDA(device=missing).check_available()
    assert "\n" not in str(error.value)
    OnnxRuntimeCPU().check_available()
