"""Files that people and programs write, as a fuzzer writes them: each is taken, or refused in one line."""

import json
import shutil

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lrsegformer.cli import certify, evaluate, export, finetune, predict, report, robustness
from lrsegformer.matrix.definition import COORDINATES, KEYS
from tests.hostile_names import NAMES

pytestmark = pytest.mark.slow
SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def fuzz(examples: int):
    """Settings for so many examples, twenty times as many under the profile of `make test-all`: about five minutes."""
    times = 20 if settings.get_current_profile_name() == "thorough" else 1
    return settings(max_examples=times * examples, deadline=None, suppress_health_check=SHARED, database=None)


NUMBERS = st.one_of(
    st.sampled_from(
        [0, 1, -1, 2, 3, 255, 256, 2**31, 2**63, 10**30, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf")]
    ),
    st.integers(-5, 300),
    st.floats(allow_nan=True),
)
WORDS = st.one_of(
    st.sampled_from(
        ["", " ", "true", "no", "null", "~", "1e-3", "digits", "auto", "none", "/", "..", "a,b", "1,2", "{", "[1]"]
    ),
    st.sampled_from(sorted(NAMES.values(), key=len)[:-1]),
    st.text(max_size=8),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=6,
)
# Lines that are all right by themselves, and fields that they have already.
BASE = (
    "--dataset digits --max_train_samples 2 --max_eval_samples 2 --architecture tiny --use_cpu --image_size 32 "
    "--max_steps 1 --total_batch_size 2 --dataloader_num_workers 0"
).split()
PARSERS = {
    "finetune-seg": finetune.build_parser("segmentation"),
    "finetune-cls": finetune.build_parser("classification"),
    "evaluate": evaluate.build_parser(),
    "predict": predict.build_parser(),
    "export": export.build_parser(),
    "robustness": robustness.build_parser(),
    "certify": certify.build_parser(),
    "report": report.build_parser(),
}
# What would leave the machine or the test, or take as long as it is told to.
LEFT_OUT = {
    *("output", "output_dir", "push_to_hub", "hub_token", "hub_model_id", "dataset", "data_dir", "train_images"),
    *("resume_from_checkpoint", "help", "config", "report_to", "model_name_or_path", "dataloader_num_workers"),
    *("num_images", "workers", "torch_compile", "logging_dir", "shifted", "deepspeed", "fsdp"),
}  # fmt: skip


def as_file(folder, content, in_json):
    path = folder / ("o.json" if in_json else "o.yaml")
    text = json.dumps(content) if in_json else yaml.safe_dump(content, allow_unicode=True)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return str(path)


def options_of(name):
    known = sorted(set(PARSERS[name].field_names()) - LEFT_OUT)
    return st.dictionaries(st.one_of(st.sampled_from(known), st.sampled_from(known), WORDS), VALUES, max_size=4)


def line_of(name, world, folder):
    out = ["--output", str(folder / "r.html")] if name == "report" else ["--output_dir", str(folder / "out")]
    rest = {
        "evaluate": [str(world / "ours"), "--dataset", "digits", "--max_eval_samples", "1", "--image_size", "32"],
        "predict": [str(world / "ours"), str(folder / "image.png")],
        "export": [str(world / "ours"), "--format", "stock"],
        "robustness": ["--models", str(world / "ours"), "--dataset", "digits", "--max_eval_samples", "1"],
        "certify": ["--models", str(world / "certified"), "--dataset", "digits", "--max_eval_samples", "1"],
        "report": [str(world / "runs")],
    }
    return [name, *rest.get(name, BASE), *out]


@pytest.mark.parametrize("name", ["finetune-seg", "finetune-cls", "evaluate", "predict", "export", "report"])
def test_option_files(name, outcome, place, world):
    @fuzz(60)
    @given(options_of(name), st.booleans())
    def run(content, in_json):
        folder = place()
        Image.new("RGB", (40, 40)).save(folder / "image.png")
        try:
            config = as_file(folder, content, in_json)
        except (TypeError, yaml.YAMLError):
            return
        outcome([*line_of(name, world, folder), "--config", config])

    run()


@pytest.mark.parametrize("name", ["robustness", "certify"])
def test_option_files_of_long_commands(name, world, place):
    """Parsed alone: what they are told to do may take any time."""
    module = {"robustness": robustness, "certify": certify}[name]

    @fuzz(100)
    @given(options_of(name), st.booleans())
    def run(content, in_json):
        folder = place()
        try:
            config = as_file(folder, content, in_json)
        except (TypeError, yaml.YAMLError):
            return
        try:
            module.parse_arguments([*line_of(name, world, folder)[1:], "--config", config])
        except ValueError as error:
            assert type(error).__name__ == "InputError" and str(error).strip(), repr(error)

    run()


@fuzz(150)
@given(
    st.one_of(st.binary(max_size=60), st.text("{}[]:,-&*!|>'\"% \n\tabc01~", max_size=60).map(str.encode)),
    st.booleans(),
)
def test_option_files_of_any_bytes(outcome, place, content, in_matrix):
    path = place() / "o.yaml"
    path.write_bytes(content)
    if in_matrix:
        outcome(["run", "--matrix", str(path), "--output_dir", str(path.parent / "out")])
    else:
        outcome(["finetune-seg", *BASE, "--output_dir", str(path.parent / "out"), "--config", str(path)])


MATRIX = st.fixed_dictionaries(
    {"tasks": st.one_of(st.sampled_from([["segmentation"], "classification", [], ["x"]]), VALUES)},
    optional={
        key: st.one_of(
            VALUES,
            st.dictionaries(
                st.one_of(st.sampled_from([*COORDINATES, "evaluate", "a", "learning_rate"]), WORDS), VALUES, max_size=3
            ),
            st.dictionaries(
                WORDS, st.dictionaries(st.sampled_from(["command", "only", "seed", "strategy"]), VALUES), max_size=2
            ),
        )
        for key in KEYS
        if key != "tasks"
    },
)


@fuzz(150)
@given(MATRIX, st.booleans())
def test_matrix_files(outcome, place, content, in_json):
    folder = place()
    try:
        path = as_file(folder, content, in_json)
    except (TypeError, yaml.YAMLError):
        return
    outcome(["run", "--matrix", path, "--output_dir", str(folder / "out")])


CONFIG_FIELDS = (
    "depths hidden_sizes num_attention_heads sr_ratios patch_sizes strides mlp_ratios num_channels num_encoder_blocks "
    "decoder_hidden_size num_labels id2label label2id architectures model_type lipschitz_strategy lipschitz_scope "
    "lipschitz_options penalty_of penalty_reduction hidden_act drop_path_rate layer_norm_eps initializer_range dtype "
    "torch_dtype transformers_version semantic_loss_ignore_index semantic_loss_class_weights certified_attention "
    "certified_position_grid certified_image_std classifier_dropout_prob hidden_dropout_prob reshape_last_stage "
    "auto_map attn_implementation quantization_config _name_or_path return_dict output_hidden_states "
    "output_attentions problem_type num_hidden_layers is_encoder_decoder chunk_size_feed_forward certified_temperature"
).split()
PROCESSOR_FIELDS = (
    "size image_mean image_std do_resize do_rescale do_normalize rescale_factor resample do_reduce_labels crop_size "
    "image_processor_type processor_class size_divisor image_reading lrsegformer do_center_crop auto_map"
).split()


@st.composite
def nearly(draw, known):
    """A value with one entry another or gone: of lists that are drawn from nothing most are refused as such."""
    if not isinstance(known, list | dict) or not known:
        return draw(VALUES)
    value = known.copy()
    place = draw(st.sampled_from(range(len(value)) if isinstance(value, list) else sorted(value)))
    if draw(st.booleans()):
        value[place] = draw(st.one_of(st.integers(1, 20), SCALARS))
    else:
        value.pop(place)
    return value


@pytest.mark.parametrize("model", ["ours", "certified", "stock", "classifier"])
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_files_of_models(model, file, outcome, place, world):
    known = json.loads((world / model / file).read_text())
    names = sorted({*known, *(CONFIG_FIELDS if file == "config.json" else PROCESSOR_FIELDS)})
    fields = st.sampled_from(names)
    changed = fields.flatmap(lambda name: st.tuples(st.just(name), st.one_of(VALUES, nearly(known.get(name)))))

    @fuzz(40)
    @given(st.lists(changed, min_size=1, max_size=2).map(dict), st.sets(fields, max_size=1))
    def run(changes, missing):
        folder = place()
        shutil.copytree(world / model, folder / "model")
        content = {name: value for name, value in (known | changes).items() if name not in missing}
        (folder / "model" / file).write_text(json.dumps(content))
        Image.new("RGB", (56, 40)).save(folder / "image.png")
        outcome(["predict", str(folder / "model"), str(folder / "image.png"), "--output_dir", str(folder / "out")])

    run()


LINE = st.one_of(
    st.text(max_size=12),
    st.builds("{} {}".format, st.integers(-2, 300), st.text("abc ,;:\t#", max_size=8)),
    st.builds("{},{},{},{},{}".format, WORDS, st.integers(-1, 260), st.integers(-1, 260), st.integers(-1, 260), WORDS),
)
TABLE = st.one_of(
    st.lists(LINE, max_size=6).map("\n".join).map(lambda text: text.encode("utf-8", "surrogatepass")),
    VALUES.map(lambda content: json.dumps(content).encode()),
    st.dictionaries(st.integers(-1, 4).map(str), WORDS, max_size=4).map(lambda content: json.dumps(content).encode()),
    st.binary(max_size=40),
)


def make_pairs(folder, mask):
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (folder / "data" / kind / split).mkdir(parents=True)
        Image.new("RGB", (40, 40), (90, 90, 30)).save(folder / "data" / "images" / split / "a.png")
        mask.save(folder / "data" / "annotations" / split / "a.png")


@fuzz(150)
@given(
    TABLE, st.sampled_from(["names.txt", "names.json", "names.csv", "objectInfo150.txt", "classes.tsv"]), st.booleans()
)
def test_class_tables(outcome, place, content, name, beside):
    folder = place()
    make_pairs(folder, Image.fromarray((np.indices((40, 40)).sum(0) // 8 % 2).astype(np.uint8)))
    path = folder / "data" / name
    path.write_bytes(content)
    words = [] if beside else ["--class_names", str(path)]
    outcome(
        ["finetune-seg", *BASE[2:], "--dataset", str(folder / "data"), *words, "--output_dir", str(folder / "out")]
    )


@st.composite
def masks(draw):
    mode = draw(st.sampled_from(["L", "P", "RGB", "RGBA", "1", "I;16", "I", "F", "LA"]))
    size = draw(st.sampled_from([(40, 40), (1, 1), (40, 39), (3, 200)]))
    values = draw(st.lists(st.integers(0, 255), min_size=1, max_size=3))
    pixels = np.resize(np.array(values, np.uint8), size[::-1])
    picture = Image.fromarray(pixels)
    if mode == "P":
        picture.putpalette(draw(st.binary(min_size=3, max_size=768).filter(lambda palette: len(palette) % 3 == 0)))
        return picture
    return Image.fromarray(pixels.astype(np.uint16)) if mode == "I;16" else picture.convert(mode)


@fuzz(120)
@given(
    masks(),
    st.sampled_from(["png", "tif"]),
    st.sampled_from(
        [[], ["--class_names", "a,b"], ["--mask_values", "0,1"], ["--ignore_label", "0"], ["--reduce_zero_label"]]
    ),
)
def test_masks(outcome, place, mask, ending, words):
    folder = place()
    try:
        make_pairs(folder, mask)
    except OSError:  # Of a mode that the format does not have.
        return
    outcome(
        ["finetune-seg", *BASE[2:], "--dataset", str(folder / "data"), *words, "--output_dir", str(folder / "out")]
    )
