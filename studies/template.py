"""The commented study file that `forgefront init` writes: every key, and the options that parts are often given."""

from __future__ import annotations

import re

__all__ = ["template"]


def template(name: str) -> str:
    """A study file that validates as it is and runs on the bundled digits.

    Args:
        name: Name of the study; characters that a name cannot have become hyphens.
    """
    kept = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-_.")
    return _TEMPLATE.replace("@NAME@", kept or "study")


_TEMPLATE = """\
# A Forgefront study. Check and run it:  forgefront run FILE
# Every key is here, with the options that parts are given most often; a key that is commented out shows its default,
# or an example where there is none.
# Paths are absolute, relative to the current directory, or begin with ~/.
# Wherever a part is named (data, model, objective, …) your own "module:attribute" works too;
# the keyword-only parameters of your function or class become its options here.

# Conditions for the front, on objectives and metrics; `control` is the value of the dense control.
constraints = []                 # for example ["accuracy >= control - 0.02", "macs <= control * 0.5"]

[study]
name = "@NAME@"                  # names the run folder: letters, digits, - _ .
seed = 0                         # every random draw of the study comes from it
description = ""

[task]
# type = "classification"

[task.data]
name = "digits"                  # digits | cifar10 | cifar100 | image-folder | arrays
# root = "data"                  # option of cifar10, cifar100 and image-folder: where the files are
# download = false               # option of cifar10 and cifar100: fetch them if they are not there
# imbalance = 1.0                # make the training images long-tailed: most ÷ fewest images of a class
# train_images = 1000            # use at most so many training images
# test_images = 200              # use at most so many test images

# The search scores on these images only. Cut them from "train" when training from scratch, from "test" when the
# checkpoint below was trained on the whole training split. The rest of the test split is for `validate` and `deploy`.
[task.data.validation]
from = "train"                   # train | test
count = 300

[task.model]
name = "digits-cnn"              # digits-cnn | resnet20 | resnet32 | resnet56 | torchvision:<name>; for 32x32 images:
#                                # resnet18-cifar | resnet50-cifar | vgg19-cifar | mobilenetv2-cifar
# weights = "model.safetensors"  # checkpoint to start from; left out or "": trained from scratch
# mean = [0.485, 0.456, 0.406]   # the statistics that the checkpoint was trained with; left out: the data's own
# std = [0.229, 0.224, 0.225]
# trained_on = "train"           # what it has seen: train (this training split) | other (other data only)

[training]                       # what every trial is given, the dense control (trial 0) included
regime = "naturalistic"          # standard | naturalistic (augmentation) | adversarial (adversarial training)
# method = "n-fgsm"              # adversarial regime only: n-fgsm | fgsm-rs | pgd-at | trades | fgsm (to compare with)
# epsilon = "8/255"              # adversarial regime only: L∞ radius, a fraction in quotes or a number
# attack_steps = 10              # adversarial regime with pgd-at and trades only
# attack_step_size = 1.0         # adversarial regime only: in units of epsilon; left out: the method's own
# trades_beta = 6.0              # adversarial regime with trades only: how much robustness weighs against accuracy
epochs = 6                       # the budget of one trial, in passes over the training images …
# steps = 200                    # … or, instead, in steps of the optimizer
batch_size = 128
device = "auto"                  # auto | cpu | cuda | cuda:N
# threads = 1                    # CPU threads of one trial; left out: OMP_NUM_THREADS, or as many as the workers leave
# crop_padding = 0               # random crops after padding by so many pixels
# horizontal_flip = false
# label_smoothing = 0.0
# augmentation = "naturalistic"  # naturalistic (colour, blur, noise) | augmix
# augmentation_strength = 1.0    # of the control; 0 off, 1 as published; default 1 if naturalistic or if `augmentation`
#                                # or `consistency` is given, else 0
# consistency = 0.0              # weight of how far predictions for two augmented views lie apart (AugMix: 12)
# class_weighting = "none"       # none | inverse | inverse-capped | effective-number | repeat-factor
# class_weight_scale = 1.0       # λ: class weights are raised to this power
# compression_start = 0.0        # share of the training after which sparsity begins to rise
# compression_end = 0.6          # share of the training after which all compression is at full strength
# gradient_clip = 1.0            # largest gradient norm; left out: not clipped
# weight_averaging = 0.0         # decay of a moving average of the weights, which ships; 0: the last weights ship
# masks = { learning_rate = 0.01, curvature = true, weight_decay = 0.0005 }  # how learned masks are trained
# overfitting_guard = true       # against catastrophic overfitting of single-step adversarial training

[training.optimizer]
name = "sgd"                     # sgd | adam | adamw
learning_rate = 0.05
# momentum = 0.9
# weight_decay = 0.0005
# schedule = "one-cycle"         # one-cycle | cosine | constant

# What may vary. A variable that is left out is not used; a list of one entry is used, but not searched.
[space]
granularity = "stage"            # what shares a variable: layer | block | stage | network
# exclude = ["*linear"]          # layers that stay dense; * and ? match any letters
# techniques = "all"             # instead of all below: the sixteen of Castro et al., or a list ["technique-3", …]
clusters = ["none", 64, 16]      # distinct weights of a layer: "none" or 2–256
# clusters_per = "layer"         # what they are counted in: layer | channel (each output channel has its own)
# clusters_gradient = "mean"     # of a cluster's weights, for the value they share: mean | sum (TF-MOT's)
# lloyd_iterations = 10          # passes of Lloyd's algorithm after k-means++ has seeded the clusters
weight_bits = [8, 6, 4]          # 1–8, or 32 for float
activation_bits = [8]            # 2–8, or 32 for float
# quantization = "aware"         # aware: simulated in training | post: after it; of a list the search chooses
# scales = "range"               # range: from the values | learned: trained (LSQ); of a list the search chooses
# augmentation = ["naturalistic", "augmix"]
augmentation_strength = { low = 0.0, high = 1.0 }
# class_weighting = ["none", "inverse", "repeat-factor"]
# class_weight_scale = { low = 0.0, high = 1.0 }   # needs a class weighting

[space.sparsity]
low = 0.0
high = 0.9                       # below 1
# step = 0.05
structure = ["filter", "weight"] # what is removed: weight, filter, or n:m such as "2:4"; of several the search chooses.
#                                # a pattern is absent at sparsity 0, else present; patterns alone need no `high`
# structure_per = "network"      # whether structures and masks are chosen once for the network | for each group
# scope = "layer"                # layer: this share of each layer | global: of all layers together, the smallest first
# residual = "keep"              # filters of summed layers: keep them all | share one choice
# round_to = 8                   # filters are kept in multiples of this: odd numbers of channels run slowly
# mask = ["magnitude", "learned"]  # what decides: magnitude (the default) | learned (masks trained with the weights)
# target = { low = 0.3, high = 0.9 }    # learned masks only: the share of the network's cost to leave
# strength = { low = 1.0, high = 10.0 } # learned masks only: the weight of their hardware loss
# cost = "operations"            # learned masks only, what is counted: operations | parameters | latency

[[target]]                       # where the model will run; several are allowed
name = "onnxruntime-cpu"         # onnxruntime-cpu | torch-cuda

[[objectives]]                   # what the search trades off, one table each
# accuracy | worst_class_accuracy | mce | relative_mce | mean_corruption_error | worst_class_corrupted_accuracy |
# pgd_accuracy | compression_ratio | macs | latency
name = "accuracy"
# direction = "maximize"         # left out: the metric's own

[[objectives]]
name = "compression_ratio"
# of = "zipped"                  # option: of the zipped ONNX files | packed (entropy-coded candidates)

[[objectives]]
name = "macs"

[[metrics]]                      # measured and recorded, but not optimised
name = "worst_class_accuracy"
# images = 1000                  # option of mce and pgd_accuracy: measured on at most so many images
# severities = [1, 2, 3, 4, 5]   # option of mce
# corruptions = ["fog", "snow"]  # option of mce; left out: the fifteen published ones

[search]
sampler = "surrogate-nsga2"      # surrogate-nsga2 | nsga2 | nsga3 | pymoo-nsga2 | pymoo-nsga3 | pymoo-sms |
#                                # pymoo-agemoea2 | nevergrad | tpe | gp | random; further keys here are its options
seeds = 8                        # uniform compressions from weak to strong, tried before the sampler chooses
trials = 24                      # the control, the seeds and what the search finds; techniques: left out, once each
# timeout = 3600                 # seconds after which no further trial begins, this time
# device_hours = 24.0            # hours of all trials together after which no further trial begins
# stagnation = { trials = 30, tolerance = 0.01 }  # end when so many trials bring less than this share of hypervolume
# trial_timeout = 1800           # seconds after which a trial that still runs is ended, and has failed
# early_stopping = { rungs = [0.25, 0.5], keep = 0.5, warm_up = 8, images = 500 }  # stop trials that are behind
# repeats = 1                    # trainings of a candidate that would be on the front; its scores are their means
# workers = 1                    # trials at the same time
# engine = "processes"           # serial | processes | ray; left out: as workers ask
# engine_options = {}            # of ray: address, gpus and cpus of a trial

[storage]
# url = "sqlite:///study.db"     # any Optuna storage; left out: study.db in the run folder
folder = "runs"                  # run folders are made in here
"""
