"""
The scores that a run reports are those of its saved files: plain transformers gives them again from the folder alone.

The images are what people have: landscape, portrait, smaller than the input, long, of odd sides, grey, with an alpha
channel, and turned by their EXIF tag.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image, ImageOps
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    pipeline,
)
from transformers.image_utils import load_image

from lrsegformer.cli.finetune import main
from lrsegformer.models.loading import load_model

pytestmark = pytest.mark.usefixtures("blank_pictures")

SIZES = [(90, 60), (60, 90), (31, 45), (33, 33), (200, 20), (24, 100), (65, 97), (64, 64)]
CLASSES = ("sky", "road", "tree")
ORIENTATION = 0x0112
SHARED = (
    "--architecture tiny --use_cpu --max_steps 6 --total_batch_size 4 --image_size 48 --learning_rate 3e-3 "
    "--logging_steps 3 --save_strategy no --eval_strategy no --dataloader_num_workers 0 --disable_tqdm true"
).split()


def save_photograph(file: Path, image: Image.Image, place: int) -> Path:
    """In another form at each place: JPEG turned by its tag, grey PNG, PNG with transparency, plain."""
    if place % 4 == 0:
        exif = Image.Exif()
        exif[ORIENTATION] = 6  # a viewer turns the stored image by 90 degrees clockwise
        image.transpose(Image.Transpose.ROTATE_90).save(file.with_suffix(".jpg"), exif=exif, quality=95)
        return file.with_suffix(".jpg")
    modes = {1: "L", 2: "RGBA", 3: "RGB"}
    image.convert(modes[place % 4]).save(file.with_suffix(".png"))
    return file.with_suffix(".png")


def scene(size: tuple[int, int], place: int) -> tuple[Image.Image, np.ndarray]:
    """Bands of three colours and their mask, with noise."""
    width, height = size
    rng = np.random.default_rng(place)
    mask = (np.arange(height)[:, None] * 3 // height + np.arange(width)[None] * 2 // width + place) % 3
    colours = np.array([[90, 120, 220], [110, 110, 110], [40, 140, 50]])
    pixels = colours[mask] + rng.integers(-30, 30, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), mask.astype(np.uint8)


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    """Images and masks; in the masks 9 is void."""
    root = tmp_path_factory.mktemp("frames")
    for place, size in enumerate(SIZES):
        image, mask = scene(size, place)
        mask[:3, :5] = 9
        (root / "images").mkdir(exist_ok=True)
        (root / "masks").mkdir(exist_ok=True)
        save_photograph(root / "images" / f"frame{place}", image, place)
        Image.fromarray(mask).save(root / "masks" / f"frame{place}.png")
    return root


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Class folders: the colour of a class fills most of an image."""
    root = tmp_path_factory.mktemp("photographs")
    for split in ("train", "validation"):
        for place, size in enumerate(SIZES * 2):
            folder = root / split / CLASSES[place % 3]
            folder.mkdir(parents=True, exist_ok=True)
            image, _ = scene(size, place)
            save_photograph(folder / f"{place}", image, place + (split == "train"))
    return root


def segment(frames: Path, folder: Path, *options: str) -> tuple[Path, dict]:
    images, masks = str(frames / "images"), str(frames / "masks")
    data = ["--train_images", images, "--train_masks", masks, "--validation_images", images]
    data += ["--validation_masks", masks, "--class_names", ",".join(CLASSES), "--ignore_label", "9"]
    main("segmentation", [*SHARED, *data, "--output_dir", str(folder), *options])
    return folder, json.loads((folder / "all_results.json").read_text())


def classify(photographs: Path, folder: Path, *options: str) -> tuple[Path, dict]:
    main("classification", [*SHARED, "--dataset", str(photographs), "--output_dir", str(folder), *options])
    return folder, json.loads((folder / "all_results.json").read_text())


def segmentation_scores(answers) -> tuple[float, float]:
    """Pixel accuracy and mean IoU by their definitions, from pairs of predicted and true masks."""
    predicted = np.concatenate([answer.ravel() for answer, _ in answers])
    truth = np.concatenate([mask.ravel() for _, mask in answers])
    predicted, truth = predicted[truth != 9], truth[truth != 9]
    ious = [
        ((predicted == index) & (truth == index)).sum() / ((predicted == index) | (truth == index)).sum()
        for index in range(len(CLASSES))
        if ((predicted == index) | (truth == index)).any()
    ]
    return (predicted == truth).mean(), np.mean(ious)


def mask_of(frames: Path, image: Path) -> np.ndarray:
    return np.asarray(Image.open(frames / "masks" / f"{image.stem}.png"))


@torch.no_grad()
def by_post_processing(folder, frames, model=None, images=None):
    """As the documentation of transformers writes it."""
    processor = AutoImageProcessor.from_pretrained(folder)
    model = model or AutoModelForSemanticSegmentation.from_pretrained(folder)
    for file in images or sorted((frames / "images").iterdir()):
        image = load_image(str(file))
        outputs = model(**processor(images=image, return_tensors="pt"))
        (answer,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[image.size[::-1]])
        yield answer.numpy(), mask_of(frames, file)


def by_pipeline(folder, frames):
    segmenter = pipeline("image-segmentation", model=str(folder))
    for file in sorted((frames / "images").iterdir()):
        mask = mask_of(frames, file)
        answer = np.full(mask.shape, 255)
        for segment in segmenter(str(file)):
            answer[np.asarray(segment["mask"]) > 0] = CLASSES.index(segment["label"])
        yield answer, mask


def assert_reported(results, accuracy, mean_iou):
    # Upsampled logits agree to rounding: of 30,000 pixels one with two equal classes may fall to another.
    assert results["eval_accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert results["eval_mean_iou"] == pytest.approx(mean_iou, abs=1e-4)


@pytest.mark.parametrize("eval_size", [pytest.param(48, marks=pytest.mark.slow), 61])
def test_segmentation(frames, tmp_path, eval_size):
    options = ["--strategy", "stable_softplus", "--eval_size", str(eval_size)]
    folder, results = segment(frames, tmp_path / "run", *options)
    assert 0.34 < results["eval_accuracy"] < 1
    assert_reported(results, *segmentation_scores(list(by_post_processing(folder, frames))))
    assert_reported(results, *segmentation_scores(list(by_pipeline(folder, frames))))
    merged = AutoModelForSemanticSegmentation.from_pretrained(folder)
    merged.merge()
    assert_reported(results, *segmentation_scores(list(by_post_processing(folder, frames, merged))))
    model = AutoModelForSemanticSegmentation.from_pretrained(folder)
    assert list(model.config.id2label.values()) == list(CLASSES)
    # The stock class, and the same folder of processor, without this package.
    vanilla = tmp_path / "vanilla"
    model.to_vanilla().save_pretrained(vanilla)
    AutoImageProcessor.from_pretrained(folder).save_pretrained(vanilla)
    assert json.loads((vanilla / "config.json").read_text())["model_type"] == "segformer"
    assert_reported(results, *segmentation_scores(list(by_post_processing(vanilla, frames))))


@pytest.mark.parametrize("eval_size", [pytest.param(48, marks=pytest.mark.slow), 64])
def test_classification(photographs, tmp_path, eval_size):
    options = ["--strategy", "orthogonal", "--eval_size", str(eval_size)]
    folder, results = classify(photographs, tmp_path / "run", *options)
    files = sorted((photographs / "validation").rglob("*.*"))
    truth = [file.parent.name for file in files]
    assert results["eval_accuracy"] < 1
    # Images of different shapes in one batch, which the stock class of SegFormer cannot make.
    classifier = pipeline("image-classification", model=str(folder))
    for batch_size in (1, 4):
        answers = [answer[0]["label"] for answer in classifier([str(file) for file in files], batch_size=batch_size)]
        assert np.mean([one == other for one, other in zip(answers, truth, strict=True)]) == results["eval_accuracy"]
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForImageClassification.from_pretrained(folder)
    inputs = processor(images=[load_image(str(file)) for file in files], return_tensors="pt")
    assert inputs["pixel_values"].shape[2:] == (eval_size, eval_size)
    with torch.no_grad():
        classes = [model.config.id2label[index] for index in model(**inputs).logits.argmax(dim=1).tolist()]
    assert classes == answers


# One run with both where a run with either would tell the same; `make test-all` tries each.
BOTH = ("--bf16", "true", "--bf16_full_eval", "true")


@pytest.mark.parametrize(
    "options", [BOTH, *(pytest.param(each, marks=pytest.mark.slow) for each in (BOTH[:2], BOTH[2:]))]
)
def test_precision_of_training_does_not_reach_the_scores(frames, photographs, tmp_path, options):
    folder, results = segment(frames, tmp_path / "segmentation", *options)
    assert results["precision"] == "float32"
    assert AutoModelForSemanticSegmentation.from_pretrained(folder).dtype == torch.float32
    model = load_model("segmentation", str(folder), None)
    loss = evaluation_loss(model, folder, frames)
    # The loss tells autocast from float32 to the fifth digit; scores of few pixels might not.
    assert results["eval_loss_task"] == pytest.approx(loss, rel=2e-6)
    assert_reported(results, *segmentation_scores(list(by_post_processing(folder, frames))))
    folder, results = classify(photographs, tmp_path / "classification", *options)
    assert AutoModelForImageClassification.from_pretrained(folder).dtype == torch.float32


@torch.no_grad()
def evaluation_loss(model, folder, frames) -> float:
    """The mean cross-entropy over the valid pixels of all images, each image by itself."""
    processor = AutoImageProcessor.from_pretrained(folder)
    total, count = 0.0, 0
    for file in sorted((frames / "images").iterdir()):
        labels = torch.from_numpy(mask_of(frames, file).astype(np.int64))
        labels[labels == 9] = 255
        inputs = processor(images=load_image(str(file)), return_tensors="pt")
        valid = (labels != 255).sum().item()
        total += model.eval()(**inputs, labels=labels[None]).loss.item() * valid
        count += valid
    return total / count


def test_the_best_model_is_the_one_that_is_scored_and_saved(frames, tmp_path):
    options = "--load_best_model_at_end --metric_for_best_model mean_iou --eval_strategy steps --eval_steps 2".split()
    options += "--save_strategy steps --save_steps 2 --save_total_limit 9 --learning_rate 0.03".split()
    folder, results = segment(frames, tmp_path / "run", *options)
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    scores = [line["eval_mean_iou"] for line in history if "eval_mean_iou" in line]
    assert scores[-1] == results["eval_mean_iou"] == max(scores)
    assert_reported(results, *segmentation_scores(list(by_post_processing(folder, frames))))
    # A checkpoint is a model as well, with its processor and the scores of its step.
    (logged,) = (line for line in history if line["step"] == 2 and "eval_mean_iou" in line)
    assert_reported(logged, *segmentation_scores(list(by_post_processing(folder / "checkpoint-2", frames))))


def test_reduced_labels(frames, tmp_path):
    """Masks that count from 1, with 0 for void, as ADE20K's: the saved processor reduces them as evaluation does."""
    raw = tmp_path / "masks"
    raw.mkdir()
    for file in sorted((frames / "masks").iterdir()):
        mask = np.asarray(Image.open(file))
        Image.fromarray(np.where(mask == 9, 0, mask + 1).astype(np.uint8)).save(raw / file.name)
    images = str(frames / "images")
    data = ["--train_images", images, "--train_masks", str(raw), "--validation_images", images]
    data += ["--validation_masks", str(raw), "--class_names", ",".join(CLASSES), "--reduce_zero_label"]
    folder = tmp_path / "run"
    main("segmentation", [*SHARED, *data, "--output_dir", str(folder)])
    results = json.loads((folder / "all_results.json").read_text())
    processor = AutoImageProcessor.from_pretrained(folder)
    assert processor.do_reduce_labels
    answers = []
    for answer, file in zip(by_post_processing(folder, frames), sorted((frames / "images").iterdir()), strict=True):
        mask = processor.reduce_label(np.array(Image.open(raw / f"{file.stem}.png")))
        answers.append((answer[0], np.where(mask == 255, 9, mask)))
    assert_reported(results, *segmentation_scores(answers))


def test_sensor_images(frames, tmp_path, monkeypatch):
    """12 bits in 16-bit files: the scale is saved with the processor, and the card's code reads files by it."""
    deep = tmp_path / "deep"
    (deep / "images").mkdir(parents=True)
    (deep / "masks").symlink_to(frames / "masks")
    for file in sorted((frames / "images").iterdir()):
        grey = np.asarray(load_image(str(file)).convert("L")).astype(np.uint16) * 16
        Image.fromarray(grey).save(deep / "images" / f"{file.stem}.png")
    folder, results = segment(deep, tmp_path / "run", "--image_range", "0,4095")
    code = ModelCard.load(folder / "README.md").text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    code = code.replace('source = "."', 'source = "run"')
    answers = []
    for file in sorted((deep / "images").iterdir()):
        names: dict = {}
        exec(compile(code.replace("image.tif", str(file)), "README.md", "exec"), names)
        answers.append((names["classes"].numpy(), mask_of(frames, file)))
    assert_reported(results, *segmentation_scores(answers))


def test_a_subset_is_called_one(frames, photographs, tmp_path, capsys):
    folder, results = segment(frames, tmp_path / "segmentation", "--max_eval_samples", "3")
    assert results["validation_images"] == {"scored": 3, "of": 8}
    chosen = [sorted((frames / "images").iterdir())[index] for index in (0, 2, 5)]
    assert_reported(results, *segmentation_scores(list(by_post_processing(folder, frames, images=chosen))))
    said = (
        "Scored on 3 of the 8 images of the validation split, from inputs of short side 48 (long side at most 2048), "
        "at the annotations' own sizes, in float32."
    )
    card = ModelCard.load(folder / "README.md")
    assert said in card.text and said in capsys.readouterr().out
    assert {result.dataset_args["images"] for result in card.data.eval_results} == {"3 of 8"}
    folder, results = classify(photographs, tmp_path / "classification")
    said = (
        "Scored on all 16 images of the validation split, from inputs of 48x48 in the middle of short side 55, in "
        "float32."
    )
    card = ModelCard.load(folder / "README.md")
    assert said in card.text and said in capsys.readouterr().out
    assert {result.dataset_args for result in card.data.eval_results} == {None}
    assert results["input_size"] == "48x48 in the middle of short side 55"


def test_scored_at_the_size_of_the_input(frames, tmp_path):
    folder, results = segment(frames, tmp_path / "run", "--score_at", "resized", "--eval_size", "40")
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForSemanticSegmentation.from_pretrained(folder)
    answers = []
    for file in sorted((frames / "images").iterdir()):
        inputs = processor(images=load_image(str(file)), return_tensors="pt")
        height, width = inputs["pixel_values"].shape[2:]
        with torch.no_grad():
            outputs = model(**inputs)
        (answer,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[(height, width)])
        mask = Image.fromarray(mask_of(frames, file)).resize((width, height), Image.Resampling.NEAREST)
        answers.append((answer.numpy(), np.asarray(mask)))
    assert_reported(results, *segmentation_scores(answers))
    assert "at the size of the input" in ModelCard.load(folder / "README.md").text


def test_stored_pixels_are_turned(frames):
    """What the other tests stand on: the files are turned on disk, and as they open they fit their masks."""
    file = frames / "images" / "frame0.jpg"
    with Image.open(file) as image:
        assert image.size == (60, 90) and ImageOps.exif_transpose(image).size == (90, 60)
    assert mask_of(frames, file).shape == (60, 90)
