"""Wrong study files: each fault is one line with file, key, what is allowed, what was found and the nearest match."""

from __future__ import annotations

from pathlib import Path

import pytest

from forgefront.studies.errors import InputError, StudyFileError
from forgefront.studies.load import load_study, read_study_text

GOOD = """\
constraints = ["accuracy >= 0.5"]

[study]
name = "small"
seed = 3

[task.data]
name = "digits"
validation = { from = "train", count = 100 }

[task.model]
name = "digits-cnn"

[training]
regime = "standard"
epochs = 2
device = "cpu"
compression_end = 0.5

[training.optimizer]
name = "sgd"

[space]
granularity = "layer"
sparsity = { low = 0.0, high = 0.8, structure = ["weight", "filter"] }
clusters = ["none", 16]
weight_bits = [8, 4]
activation_bits = [8]

[[target]]
name = "onnxruntime-cpu"

[[objectives]]
name = "accuracy"

[[objectives]]
name = "macs"

[search]
sampler = "random"
seeds = 2
trials = 8
"""

LEARNED, TARGET = 'mask = ["magnitude", "learned"]', "target = { low = 0.3, high = 0.9 }"
STRENGTH = "strength = { low = 1, high = 9 }"

BAD = [
    # values
    ('name = "small"', 'name = "my study"', "study.name", '"my study"', '"my-study"'),
    ('name = "small"', "name = 7", "study.name", "7", '"7"'),
    ("seed = 3", "seed = -1", "study.seed", "-1", "0"),
    ("seed = 3", 'seed = "3"', "study.seed", '"3"', "3"),
    ("seed = 3", "seed = 3.5", "study.seed", "3.5", "4"),
    ("seed = 3", "seed = true", "study.seed", "true", None),
    ("count = 100", "count = 0", "task.data.validation.count", "0", "1"),
    ('from = "train"', 'from = "tset"', "task.data.validation.from", '"tset"', '"test"'),
    ('name = "digits"', 'name = "digits"\nimbalance = 0.5', "task.data.imbalance", "0.5", "1.0"),
    ('name = "digits"', 'name = "digits"\ntrain_images = 0', "task.data.train_images", "0", "1"),
    ('regime = "standard"', 'regime = "Adversarial "', "training.regime", '"Adversarial "', '"adversarial"'),
    ("epochs = 2", "epochs = 0", "training.epochs", "0", "1"),
    ("epochs = 2", "epochs = 2.5", "training.epochs", "2.5", "2"),
    ("epochs = 2", "epochs = 2\nbatch_size = 0", "training.batch_size", "0", "1"),
    ("epochs = 2", "epochs = 2\nlabel_smoothing = 1.0", "training.label_smoothing", "1.0", None),
    ("epochs = 2", "epochs = 2\nlabel_smoothing = -0.1", "training.label_smoothing", "-0.1", "0.0"),
    ("epochs = 2", "epochs = 2\nweight_averaging = 1.0", "training.weight_averaging", "1.0", None),
    ("epochs = 2", "epochs = 2\nweight_averaging = -0.5", "training.weight_averaging", "-0.5", "0.0"),
    ("epochs = 2", "epochs = 2\nconsistency = -1.0", "training.consistency", "-1.0", "0.0"),
    ("epochs = 2", 'epochs = 2\nconsistency = "12"', "training.consistency", '"12"', "12"),
    ("epochs = 2", 'epochs = 2\naugmentation = " "', "training.augmentation", '" "', None),
    ('regime = "standard"', 'regime = "adversarial"\nattack_step_size = 0', "training.attack_step_size", "0", None),
    ('regime = "standard"', 'regime = "adversarial"\ntrades_beta = -1', "training.trades_beta", "-1", "0.0"),
    ("activation_bits = [8]", "augmentation = []", "space.augmentation", "[]", None),
    (
        "activation_bits = [8]",
        'augmentation = ["augmix", "naturalistic"]',
        "space.augmentation",
        '["augmix", "naturalistic"]',
        "augmentation_strength = { low = 0.0, high = 1.0 }",
    ),
    (
        "activation_bits = [8]",
        'augmentation = ["augmix", "augmix"]',
        "space.augmentation",
        '["augmix", "augmix"]',
        '["augmix"]',
    ),
    ("epochs = 2", 'epochs = 2\nhorizontal_flip = "yes"', "training.horizontal_flip", '"yes"', "true"),
    ("epochs = 2", "epochs = 2\naugmentation_strength = nan", "training.augmentation_strength", "nan", None),
    ("epochs = 2", "epochs = 2\ncrop_padding = -4", "training.crop_padding", "-4", "0"),
    ("epochs = 2", "epochs = 2\nthreads = 0", "training.threads", "0", "1"),
    ('device = "cpu"', 'device = "gpu:1"', "training.device", '"gpu:1"', '"cuda:1"'),
    ('name = "sgd"', 'name = "adamW "', "training.optimizer.name", '"adamW "', '"adamw"'),
    ('name = "sgd"', 'schedule = "onecycle"', "training.optimizer.schedule", '"onecycle"', '"one-cycle"'),
    ('name = "sgd"', "learning_rate = 0", "training.optimizer.learning_rate", "0", None),
    ('name = "sgd"', 'learning_rate = "0.1"', "training.optimizer.learning_rate", '"0.1"', "0.1"),
    ('granularity = "layer"', 'granularity = "layers"', "space.granularity", '"layers"', '"layer"'),
    ("weight_bits = [8, 4]", "weight_bits = [8, 4, 12]", "space.weight_bits[2]", "12", "8"),
    ("weight_bits = [8, 4]", "weight_bits = [16]", "space.weight_bits[0]", "16", "32"),
    ("weight_bits = [8, 4]", 'weight_bits = ["float", 4]', "space.weight_bits[0]", '"float"', "32"),
    ("weight_bits = [8, 4]", "weight_bits = [8, 4, 8]", "space.weight_bits", "[8, 4, 8]", "[8, 4]"),
    ("weight_bits = [8, 4]", "weight_bits = []", "space.weight_bits", "[]", None),
    ("weight_bits = [8, 4]", "weight_bits = 8", "space.weight_bits", "8", "[8]"),
    ("activation_bits = [8]", "activation_bits = [1]", "space.activation_bits[0]", "1", "2"),
    ('clusters = ["none", 16]', 'clusters = ["none", 1]', "space.clusters[1]", "1", "2"),
    ('clusters = ["none", 16]', "clusters = [16, 1000]", "space.clusters[1]", "1000", "256"),
    ('clusters = ["none", 16]', 'clusters = ["no", 16]', "space.clusters[0]", '"no"', '"none"'),
    ("high = 0.8", "high = 1.0", "space.sparsity.high", "1.0", None),
    ('["weight", "filter"]', '["filters"]', "space.sparsity.structure[0]", '"filters"', '"filter"'),
    ('["weight", "filter"]', '["4:2"]', "space.sparsity.structure[0]", '"4:2"', '"2:4"'),
    ('["weight", "filter"]', '["weight", "0:4"]', "space.sparsity.structure[1]", '"0:4"', '"2:4"'),
    ('["weight", "filter"]', '["4:4"]', "space.sparsity.structure[0]", '"4:4"', '"2:4"'),
    ('["weight", "filter"]', '["2:64"]', "space.sparsity.structure[0]", '"2:64"', '"2:4"'),
    (
        'sparsity = { low = 0.0, high = 0.8, structure = ["weight", "filter"] }',
        "sparsity = 0.5",
        "space.sparsity",
        "0.5",
        "{ low = 0.5, high = 0.5 }",
    ),
    (
        'sparsity = { low = 0.0, high = 0.8, structure = ["weight", "filter"] }',
        "sparsity = 50",
        "space.sparsity",
        "50",
        None,
    ),
    (
        "activation_bits = [8]",
        "augmentation_strength = 0.5",
        "space.augmentation_strength",
        "0.5",
        "{ low = 0.5, high = 0.5 }",
    ),
    (
        "activation_bits = [8]",
        "augmentation_strength = [0, 1]",
        "space.augmentation_strength",
        "[0, 1]",
        "{ low = 0, high = 1 }",
    ),
    (
        "high = 0.8",
        f"high = 0.8, {LEARNED}, {STRENGTH}, target = 0.5",
        "space.sparsity.target",
        "0.5",
        "{ low = 0.5, high = 0.5 }",
    ),
    ("high = 0.8", 'high = 0.8, structure_per = "layer"', "space.sparsity.structure_per", '"layer"', None),
    ("high = 0.8", 'high = 0.8, scope = "globl"', "space.sparsity.scope", '"globl"', '"global"'),
    ("high = 0.8", 'high = 0.8, cost = "macs"', "space.sparsity.cost", '"macs"', None),
    ("high = 0.8", 'high = 0.8, mask = ["lerned"]', "space.sparsity.mask[0]", '"lerned"', '"learned"'),
    ("high = 0.8", 'high = 0.8, mask = "learned"', "space.sparsity.mask", '"learned"', '["learned"]'),
    ("high = 0.8", "high = 0.8, mask = []", "space.sparsity.mask", "[]", None),
    (
        "high = 0.8",
        'high = 0.8, mask = ["magnitude", "magnitude"]',
        "space.sparsity.mask",
        '["magnitude", "magnitude"]',
        '["magnitude"]',
    ),
    ('clusters = ["none", 16]', 'clusters = [16]\nclusters_per = "row"', "space.clusters_per", '"row"', None),
    ("activation_bits = [8]", 'quantization = "awre"', "space.quantization", '"awre"', '"aware"'),
    ("activation_bits = [8]", 'quantization = ["aware", "pst"]', "space.quantization[1]", '"pst"', '"post"'),
    ("activation_bits = [8]", "quantization = []", "space.quantization", "[]", None),
    ("activation_bits = [8]", "quantization = 8", "space.quantization", "8", None),
    ("activation_bits = [8]", 'quantization = "PTQ"', "space.quantization", '"PTQ"', '"post"'),
    ("activation_bits = [8]", 'scales = "lsq"', "space.scales", '"lsq"', '"learned"'),
    ("activation_bits = [8]", 'scales = ["lsq"]', "space.scales[0]", '"lsq"', '"learned"'),
    ("activation_bits = [8]", 'scales = ["learnt"]', "space.scales[0]", '"learnt"', '"learned"'),
    (
        "activation_bits = [8]",
        'scales = ["range", "range"]',
        "space.scales",
        '["range", "range"]',
        '["range"]',
    ),
    ('["weight", "filter"]', '["weight", "weight"]', "space.sparsity.structure", '["weight", "weight"]', '["weight"]'),
    ("trials = 8", "trials = 8\nworkers = 0", "search.workers", "0", "1"),
    ("trials = 8", "trials = 8\ntimeout = 0", "search.timeout", "0", None),
    ("trials = 8", 'trials = 8\n[storage]\nurl = "study.db"', "storage.url", '"study.db"', '"sqlite:///study.db"'),
    # unknown, missing and misplaced keys
    ("seed = 3", "sed = 3", "study.sed", '"sed"', "seed"),
    ("epochs = 2", "epochs = 2\nepsilom = 0.1", "training.epsilom", '"epsilom"', "epsilon"),
    ('name = "small"\nseed = 3', "seed = 3", "study.name", "nothing", None),
    ("validation = { from", "imbalance = 1.0 # { from", "task.data.validation", "nothing", None),
    ("high = 0.8, ", "", "space.sparsity.high", "nothing", None),
    ("seed = 3", "trials = 3", "study.trials", '"trials"', "search.trials"),
    ('clusters = ["none", 16]', 'cluster = ["none", 16]', "space.cluster", '"cluster"', "clusters"),
    ('constraints = ["accuracy >= 0.5"]', "metric = []", "metric", '"metric"', "metrics"),
    ("[[target]]", "[storage]\nfoldr = 3\n[[target]]", "storage.foldr", '"foldr"', "folder"),
    ('[study]\nname = "small"\nseed = 3\n', "", "study", "nothing", None),
    # contradictions
    ("epochs = 2\n", "", "training.epochs", "nothing", None),
    ("epochs = 2", "epochs = 2\nsteps = 9", "training.steps", "9", "one of the two"),
    ("epochs = 2", 'epochs = 2\nepsilon = "8/255"', "training.epsilon", "0.0313725", 'regime = "adversarial"'),
    ("epochs = 2", 'epochs = 2\nmethod = "pgd-at"', "training.method", '"pgd-at"', 'regime = "adversarial"'),
    ("epochs = 2", "epochs = 2\nattack_steps = 3", "training.attack_steps", "3", 'regime = "adversarial"'),
    ("epochs = 2", "epochs = 2\nattack_step_size = 1.0", "training.attack_step_size", "1.0", 'regime = "adversarial"'),
    ("epochs = 2", "epochs = 2\ntrades_beta = 6.0", "training.trades_beta", "6.0", 'regime = "adversarial"'),
    ('regime = "standard"', 'regime = "adversarial"\nconsistency = 12.0', "training.consistency", "12.0", None),
    ('regime = "standard"', 'regime = "adversarial"\nepsilon = 8', "training.epsilon", "8", '"8/255"'),
    ('regime = "standard"', 'regime = "adversarial"\nepsilon = "8\\\\255"', "training.epsilon", '"8\\255"', '"8/255"'),
    (
        "compression_end = 0.5",
        "compression_start = 0.7\ncompression_end = 0.5",
        "training.compression_start",
        "0.7",
        "0.5",
    ),
    ("compression_end = 0.5", "compression_end = 1.5", "training.compression_end", "1.5", "1.0"),
    (
        "compression_end = 0.5",
        "compression_end = 1.0\nweight_averaging = 0.99",
        "training.compression_end",
        "1.0",
        "0.6",
    ),
    (
        "epochs = 2",
        'epochs = 2\naugmentation = "augmix"\naugmentation_strength = 0.0',
        "training.augmentation",
        '"augmix"',
        "augmentation_strength = 1.0",
    ),
    (
        "epochs = 2",
        "epochs = 2\nconsistency = 12.0\naugmentation_strength = 0.0",
        "training.consistency",
        "12.0",
        "augmentation_strength = 1.0",
    ),
    ("low = 0.0, high = 0.8", "low = 0.9, high = 0.8", "space.sparsity.low", "0.9", "0.8"),
    ("high = 0.8", "high = 0.8, step = 0.9", "space.sparsity.step", "0.9", "0.8"),
    (
        "activation_bits = [8]",
        "augmentation_strength = { low = 1.0, high = 0.5 }",
        "space.augmentation_strength.low",
        "1.0",
        "0.5",
    ),
    (
        "activation_bits = [8]",
        "class_weight_scale = { high = 1.0 }",
        "space.class_weight_scale",
        "{ low = 0.0, high = 1.0 }",
        'class_weighting = "inverse"',
    ),
    ("high = 0.8", "high = 0.8, target = { high = 0.5 }", "space.sparsity.target", "{ low = 0.0", 'mask = ["learned"]'),
    (
        "high = 0.8",
        "high = 0.8, strength = { high = 2 }",
        "space.sparsity.strength",
        "{ low = 0.0",
        'mask = ["learned"]',
    ),
    ("high = 0.8", 'high = 0.8, cost = "parameters"', "space.sparsity.cost", '"parameters"', 'mask = ["learned"]'),
    ("high = 0.8", f"high = 0.8, {LEARNED}, {STRENGTH}", "space.sparsity.target", "nothing", None),
    ("high = 0.8", f"high = 0.8, {LEARNED}, {TARGET}", "space.sparsity.strength", "nothing", None),
    (
        "high = 0.8",
        f"high = 0.8, {LEARNED}, {STRENGTH}, target = {{ high = 0.5 }}",
        "space.sparsity.target.low",
        "0.0",
        None,
    ),
    (
        "high = 0.8",
        f"high = 0.8, {LEARNED}, {STRENGTH}, target = {{ low = 0.5, high = 1.5 }}",
        "space.sparsity.target.high",
        "1.5",
        "1.0",
    ),
    (
        "high = 0.8",
        f"high = 0.8, {LEARNED}, {TARGET}, strength = {{ high = 5 }}",
        "space.sparsity.strength.low",
        "0.0",
        None,
    ),
    (
        "high = 0.8",
        f'high = 0.8, {LEARNED}, {TARGET}, {STRENGTH}, cost = "latency"',
        "space.sparsity.cost",
        '"latency"',
        '"operations"',
    ),
    (
        'high = 0.8, structure = ["weight", "filter"]',
        f'high = 0.8, structure = ["2:4"], {LEARNED}, {TARGET}, {STRENGTH}',
        "space.sparsity.mask",
        '["magnitude", "learned"]',
        '["magnitude"]',
    ),
    (
        'structure = ["weight", "filter"]',
        'structure = ["2:4"], scope = "global"',
        "space.sparsity.scope",
        '"global"',
        '"layer"',
    ),
    (
        'clusters = ["none", 16]',
        'clusters_per = "channel"',
        "space.clusters_per",
        '"channel"',
        "clusters = [16]",
    ),
    ('clusters = ["none", 16]', 'clusters_gradient = "sum"', "space.clusters_gradient", '"sum"', "clusters = [16]"),
    ('clusters = ["none", 16]', "lloyd_iterations = 0", "space.lloyd_iterations", "0", "clusters = [16]"),
    ('clusters = ["none", 16]', "clusters = [16]\nlloyd_iterations = -1", "space.lloyd_iterations", "-1", "0"),
    (
        "activation_bits = [8]",
        'quantization = "post"\nscales = "learned"',
        "space.scales",
        '"learned"',
        '"range"',
    ),
    (
        "weight_bits = [8, 4]\nactivation_bits = [8]",
        'scales = "learned"',
        "space.scales",
        '"learned"',
        "weight_bits = [8]",
    ),
    (
        "weight_bits = [8, 4]\nactivation_bits = [8]",
        'quantization = ["aware", "post"]',
        "space.quantization",
        '["aware", "post"]',
        "weight_bits = [8]",
    ),
    ("trials = 8", "trials = 2", "search.trials", "2", "3"),
    ("trials = 8", 'trials = 8\nworkers = 2\nengine = "serial"', "search.engine", '"serial"', '"processes"'),
    ('name = "digits-cnn"', 'name = "digits-cnn"\nweights = "w.pt"', "task.data.validation.from", '"train"', '"test"'),
    ('name = "macs"', 'name = "accuracy"', "objectives[1].name", '"accuracy"', None),
    ("[search]", '[[metrics]]\nname = "macs"\n[search]', "metrics[0].name", '"macs"', None),
    ("[search]", '[[target]]\nname = "onnxruntime-cpu"\n[search]', "target[1].name", '"onnxruntime-cpu"', None),
    ("accuracy >= 0.5", "acuracy >= 0.5", "constraints[0]", '"acuracy >= 0.5"', '"accuracy >= 0.5"'),
    ("accuracy >= 0.5", "accuracy => 0.5", "constraints[0]", '"accuracy => 0.5"', '"accuracy >= 0.5"'),
    ("accuracy >= 0.5", "accuracy >= 50%", "constraints[0]", '"accuracy >= 50%"', '"accuracy >= 0.5"'),
    ('direction = ""', "", "objectives[0].direction", '"maximise"', '"maximize"'),
]


def changed(old: str, new: str) -> str:
    """GOOD with one change."""
    if old == 'direction = ""':
        old, new = 'name = "accuracy"', 'name = "accuracy"\ndirection = "maximise"'
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def faults(text: str, *, check_parts: bool = False) -> tuple[str, ...]:
    with pytest.raises(StudyFileError) as caught:
        read_study_text(text, file="study.toml", check_parts=check_parts)
    return caught.value.lines


def test_the_file_that_the_table_changes_is_valid() -> None:
    study = read_study_text(GOOD, file="study.toml", check_parts=False)
    assert (study.study.seed, study.space.weight_bits, study.search.options) == (3, [8, 4], {})


@pytest.mark.parametrize(("old", "new", "key", "found", "match"), BAD, ids=[f"{row[2]}={row[3]}" for row in BAD])
def test_one_fault_is_one_line(old: str, new: str, key: str, found: str, match: str | None) -> None:
    (line,) = faults(changed(old, new))
    assert line.startswith(f"study.toml: `{key}` must be ")
    assert f"; found {found}" in line
    assert line.endswith(f" Did you mean {match}?") if match else "Did you mean" not in line
    assert "\n" not in line


def test_an_example_in_full() -> None:
    lines = faults(changed("weight_bits = [8, 4]", "weight_bits = [8, 6, 12]"))
    assert lines == ("study.toml: `space.weight_bits[2]` must be one of 1–8 or 32 (float); found 12. Did you mean 8?",)


def test_all_faults_of_a_file_come_at_once() -> None:
    text = GOOD.replace("seed = 3", "sed = 3").replace("weight_bits = [8, 4]", "weight_bits = [9]")
    text = text.replace("epochs = 2", "epochs = 2\nsteps = 2\nepsilon = 0.1").replace("macs", "accuracy")
    text = text.replace("accuracy >= 0.5", "latency >= 0.5")
    keys = [line.split("`")[1] for line in faults(text)]
    assert sorted(keys) == sorted(
        [
            "study.sed",
            "space.weight_bits[0]",
            "training.steps",
            "training.epsilon",
            "objectives[1].name",
            "constraints[0]",
        ]
    )


def test_schema_and_part_options_are_reported_together() -> None:
    text = GOOD.replace("seed = 3", "sed = 3").replace('name = "digits-cnn"', 'name = "digits-cn"')
    text = text.replace('name = "digits"', 'name = "digits"\nupsampling = "linear"')
    text = text.replace('sampler = "random"', 'sampler = "randon"')
    lines = faults(text, check_parts=True)
    by_key = {line.split("`")[1]: line for line in lines}
    assert {"study.sed", "task.data.upsampling", "task.model.name", "search.sampler"} <= set(by_key)
    assert by_key["task.data.upsampling"].endswith('found "linear". Did you mean "bilinear"?')
    assert by_key["task.model.name"].endswith('found "digits-cn". Did you mean "digits-cnn"?')
    assert by_key["search.sampler"].endswith('found "randon". Did you mean "random"?')


def test_an_unknown_option_may_be_a_misspelt_key_of_its_section() -> None:
    text = GOOD.replace("seeds = 2", "seedz = 2").replace('name = "digits-cnn"', 'name = "digits-cnn"\nwidht = 8')
    lines = faults(text, check_parts=True)
    assert any(line.startswith("study.toml: `search.seedz`") and line.endswith("Did you mean seeds?") for line in lines)
    assert any(line.startswith("study.toml: `task.model.widht`") and "Did you mean width?" in line for line in lines)


@pytest.mark.parametrize(
    ("method", "option", "having"),
    [
        ("n-fgsm", "attack_steps = 4", "pgd-at"),
        ("fgsm", "attack_steps = 4", "pgd-at"),
        (None, "attack_steps = 4", "pgd-at"),
        ("n-fgsm", "trades_beta = 6.0", "trades"),
        ("pgd-at", "trades_beta = 6.0", "trades"),
    ],
)
def test_options_of_another_attack_are_refused(method: str | None, option: str, having: str) -> None:
    named = f'\nmethod = "{method}"' if method else ""
    text = GOOD.replace('regime = "standard"', f'regime = "adversarial"{named}\n{option}')
    (line,) = faults(text, check_parts=True)
    key, _, value = option.partition(" = ")
    allowed = f'left out with method "{method or "n-fgsm"}", which has no such option'
    assert line == f'study.toml: `training.{key}` must be {allowed}; found {value}. Did you mean method = "{having}"?'


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("pgd-at", "attack_steps = 4\nattack_step_size = 0.5"),
        ("trades", "attack_steps = 4\nattack_step_size = 0.5\ntrades_beta = 3.0"),
        ("fgsm", "attack_step_size = 2.0"),
        ("n-fgsm", "attack_step_size = 1.0"),
    ],
)
def test_options_of_an_attack_are_taken(method: str, options: str) -> None:
    text = GOOD.replace('regime = "standard"', f'regime = "adversarial"\nmethod = "{method}"\n{options}')
    training = read_study_text(text, file="study.toml").training
    assert training.method == method
    assert (training.attack_step_size or 0.0) > 0.0


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("epochs = 2", 'epochs = 2\naugmentation = "augmxi"', "training.augmentation"),
        (
            "activation_bits = [8]",
            'augmentation = ["naturalistic", "augmxi"]\naugmentation_strength = { low = 0.0, high = 1.0 }',
            "space.augmentation[1]",
        ),
    ],
)
def test_an_unknown_augmentation_is_named(old: str, new: str, key: str) -> None:
    (line,) = faults(GOOD.replace(old, new), check_parts=True)
    assert line.startswith(f"study.toml: `{key}` must be one of naturalistic, augmix or your own module:attribute")
    assert line.endswith('found "augmxi". Did you mean "augmix"?')


def test_an_objective_of_another_target_and_a_wrong_corruption_are_refused() -> None:
    text = GOOD.replace('name = "macs"', 'name = "latency"\ntarget = "onnxruntime-gpu"')
    text = text.replace("[search]", '[[metrics]]\nname = "mce"\nseverities = [0]\n[search]')
    latency, mce = faults(text, check_parts=True)
    assert latency.startswith("study.toml: `objectives[1].target` must be a target of this study (onnxruntime-cpu)")
    assert latency.endswith('Did you mean "onnxruntime-cpu"?')
    assert mce.startswith("study.toml: `metrics[0].severities[0]` must be ")
    wrong = GOOD.replace("[search]", '[[metrics]]\nname = "mce"\ncorruptions = ["fgo"]\n[search]')
    (line,) = faults(wrong, check_parts=True)
    assert 'found "fgo". Did you mean "fog"?' in line


@pytest.mark.parametrize("trials", [1, 2])
def test_a_space_without_variables_allows_only_the_plans_there_are(trials: int) -> None:
    start, end = GOOD.index("sparsity ="), GOOD.index("[[target]]")
    bare = GOOD[:start] + GOOD[end:]
    bare = bare.replace("seeds = 2\ntrials = 8", f"seeds = 0\ntrials = {trials}")
    if trials == 1:
        assert read_study_text(bare, file="study.toml", check_parts=False).space.used == []
    else:
        (line,) = faults(bare)
        assert line.startswith("study.toml: `search.trials` must be at most 1 when `space` has nothing to search")
    fixed = bare.replace('granularity = "layer"', "weight_bits = [8]")
    assert read_study_text(fixed, file="study.toml", check_parts=False).space.searched == []


def test_without_a_number_a_study_of_techniques_has_a_trial_for_each() -> None:
    for chosen, trials in [('"all"', 17), ('["technique-16", "technique-2"]', 3)]:
        text = techniques(chosen).replace("seeds = 2\ntrials = 3\n", "")
        assert "trials" not in text
        study = read_study_text(text, file="study.toml", check_parts=False)
        assert (study.search.trials, study.search.seeds) == (trials, 8)
        # without a table of its own, too
        bare = text.replace('[search]\nsampler = "random"\n', "")
        assert read_study_text(bare, file="study.toml", check_parts=False).search.trials == trials


@pytest.mark.parametrize("seeds", [0, 4, 99])
def test_techniques_need_no_seeds_and_may_stop_early(seeds: int) -> None:
    for trials in (1, 5, 17):
        text = techniques('"all"', seeds=seeds, trials=trials)
        assert read_study_text(text, file="study.toml", check_parts=False).search.trials == trials


def test_another_fault_brings_none_about_the_trials_of_techniques() -> None:
    (line,) = faults(techniques('"all"').replace("seeds = 2\ntrials = 3\n", "").replace("seed = 3", "sed = 3"))
    assert "study.sed" in line


def techniques(chosen: str, *, more: str = "", seeds: int = 2, trials: int = 3) -> str:
    """GOOD with a space of techniques."""
    start, end = GOOD.index('granularity = "layer"'), GOOD.index("[[target]]")
    text = GOOD[:start] + f"techniques = {chosen}\n{more}\n" + GOOD[end:]
    return text.replace("seeds = 2\ntrials = 8", f"seeds = {seeds}\ntrials = {trials}")


def test_techniques_are_all_or_a_list_of_some() -> None:
    space = read_study_text(techniques('"all"', seeds=16, trials=17), file="study.toml", check_parts=False).space
    assert space.techniques == [f"technique-{code}" for code in range(1, 17)]
    assert (space.used, space.searched) == (["techniques"], ["techniques"])
    chosen = 'techniques = ["technique-16", "technique-2"]\nexclude = ["stem.*"]'.removeprefix("techniques = ")
    assert read_study_text(techniques(chosen), file="study.toml", check_parts=False).space.techniques == [
        "technique-16",
        "technique-2",
    ]


@pytest.mark.parametrize(
    ("text", "key", "rest"),
    [
        (techniques('"al"'), "space.techniques", '"all" or a list of techniques; found "al". Did you mean "all"?'),
        (
            techniques('"technique-3"'),
            "space.techniques",
            '"all" or a list of techniques; found "technique-3". Did you mean ["technique-3"]?',
        ),
        (
            techniques('["technique-17"]'),
            "space.techniques[0]",
            'technique-1 to technique-16; found "technique-17".',
        ),
        (
            techniques('["technique-1", "technique 4"]'),
            "space.techniques[1]",
            'technique-1 to technique-16; found "technique 4". Did you mean "technique-4"?',
        ),
        (techniques("[7]"), "space.techniques[0]", 'technique-1 to technique-16; found 7. Did you mean "technique-7"?'),
        (techniques("[]"), "space.techniques", "a list of 1 or more; found []."),
        (
            techniques('["technique-1", "technique-1"]'),
            "space.techniques",
            'a list without duplicates; found ["technique-1", "technique-1"]. Did you mean ["technique-1"]?',
        ),
        (
            techniques('"all"', more="weight_bits = [8]"),
            "space.weight_bits",
            "left out when `space.techniques` is given, which settles everything; found [8].",
        ),
        (
            techniques('"all"', more="sparsity = { high = 0.5 }"),
            "space.sparsity",
            "left out when `space.techniques` is given, which settles everything; found { low = 0.0, high = 0.5, step…",
        ),
        (
            techniques('"all"', more='quantization = "post"'),
            "space.quantization",
            'left out when `space.techniques` is given, which settles everything; found "post".',
        ),
        (
            techniques('["technique-2", "technique-4"]', trials=4),
            "search.trials",
            "at most 3 with these techniques (the control and 2 techniques); found 4. Did you mean 3?",
        ),
        (
            techniques('["technique-2"]', seeds=1, trials=3),
            "search.trials",
            "at most 2 with these techniques (the control and 1 technique); found 3. Did you mean 2?",
        ),
    ],
)
def test_wrong_techniques_are_told_in_one_line(text: str, key: str, rest: str) -> None:
    (line,) = faults(text)
    assert line.startswith(f"study.toml: `{key}` must be {rest[:-1].rstrip('…')}")
    assert line.endswith(rest[-1]) or "…" in rest


def test_a_space_may_hold_every_compressor() -> None:
    sparsity = f'sparsity = {{ high = 0.8, structure = ["weight", "filter", "2:4"], structure_per = "group", {LEARNED}'
    old = 'sparsity = { low = 0.0, high = 0.8, structure = ["weight", "filter"] }'
    text = changed(old, f'{sparsity}, {TARGET}, {STRENGTH} }}\nquantization = ["aware", "post"]\nscales = ["learned"]')
    space = read_study_text(text, file="study.toml", check_parts=False).space
    assert (space.modes, space.scalings) == (("aware", "post"), ("learned",))
    assert space.searched == ["sparsity", "clusters", "weight_bits", "quantization"]
    learned = changed(old, f'sparsity = {{ structure = ["filter"], {TARGET}, {STRENGTH}, mask = ["learned"] }}')
    found = read_study_text(learned, file="study.toml", check_parts=False).space.sparsity
    assert found is not None
    assert (found.high, found.graded, found.varies) == (None, False, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[study\nname = 3", 'study.toml: line 1 must be valid TOML; found "[study"'),
        ("[study]\nname = small", 'study.toml: line 2 must be valid TOML; found "name = small"'),
        ("[study]\nname = 'a'\nname = 'b'", "study.toml: line 3 must be valid TOML"),
    ],
)
def test_a_file_that_is_no_toml(text: str, expected: str) -> None:
    (line,) = faults(text)
    assert line.startswith(expected)


def test_an_empty_file_lacks_every_required_table() -> None:
    keys = [line.split("`")[1] for line in faults("")]
    assert keys == ["study", "task", "training", "space", "objectives"]


def test_a_missing_file_names_the_nearest_study() -> None:
    with pytest.raises(InputError, match=r"found \"digts\"\. Did you mean digits\?$"):
        load_study("digts")


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(GOOD, encoding="utf-8")
    with pytest.raises(InputError, match=r"Did you mean .*mine\.toml\?$"):
        load_study(tmp_path / "mne.toml")


def test_a_folder_and_a_binary_file_are_one_line_each(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a folder"):
        load_study(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StudyFileError, match=r"^binary\.toml: the file must be UTF-8 text; found byte 0 is not\.$"):
        load_study(binary)
