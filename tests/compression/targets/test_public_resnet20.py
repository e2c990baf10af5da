"""The public ResNet-20 in eight bits, in ONNX Runtime, on the whole CIFAR-10 test split; skipped without the data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from forgefront.compression.attach import attach
from forgefront.compression.bake import bake
from forgefront.compression.targets.onnxruntime_cpu import OnnxRuntimeCPU
from forgefront.spaces.layers import inspect_layers
from forgefront.spaces.techniques import technique
from forgefront.studies.seeds import Seed
from forgefront.trainers.data.cifar import cifar10
from forgefront.trainers.models.base import with_normalization
from forgefront.trainers.models.cifar_resnet import resnet20
from forgefront.trainers.models.weights import load_weights

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
CHECKPOINT = SHARED / "models" / "resnet20_cifar10.safetensors"
PUBLISHED = 0.9173

pytestmark = pytest.mark.skipif(not CHECKPOINT.exists(), reason="needs the public checkpoint and CIFAR-10")


def build():
    return with_normalization(resnet20(10), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, SHARED / "unpack_cifar10.py", folder], check=True, capture_output=True)
    return cifar10(root=str(folder))


def accuracy(outputs, labels):
    return float((outputs.argmax(axis=1) == labels).mean())


def test_post_training_int8_keeps_the_published_accuracy(data, tmp_path):
    model = build()
    load_weights(model, CHECKPOINT)
    layers = inspect_layers(model, (3, 32, 32))
    example = torch.zeros(1, 3, 32, 32)
    attached = attach(model, technique("technique-2", layers, pretrained=True), layers, example, seed=Seed(0))
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(data.train.images), generator=generator)[:512]
    attached.finalize((data.train.images[chosen].float() / 255.0).split(128))
    candidate = bake(attached, build, layers, example)
    target = OnnxRuntimeCPU()
    artefact = target.export(candidate, tmp_path, example)
    images = (data.test.images.float() / 255.0).numpy()
    labels = np.asarray(data.test.labels)
    reached = accuracy(target.run(artefact, images), labels)
    assert reached >= PUBLISHED - 0.005, reached
