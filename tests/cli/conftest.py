"""Models that the tables of bad input share."""

import pytest
from transformers import BitImageProcessorPil

from lrsegformer.data.processor import build_processor
from lrsegformer.training.run.run_config import write_run_config


@pytest.fixture(scope="session")
def world(make_model, make_stock, tmp_path_factory):
    """Folders of models of the digits by name, and of what commands leave, none of which a test may change."""
    root = tmp_path_factory.mktemp("world")
    made = {
        "stock": make_stock(num_labels=11),
        "ours": make_model("stable_softplus", num_labels=11),
        "certified": make_model("orthogonal", "certified", num_labels=11, certified_training_radius=0.1),
        "classifier": make_stock("classification", num_labels=10),
    }
    for name, model in made.items():
        model.save_pretrained(root / name)
        if name == "classifier":
            processor = BitImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
        else:
            processor = build_processor("segmentation", 64, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        processor.save_pretrained(root / name)
    (root / "runs" / "a").mkdir(parents=True)
    write_run_config(root / "runs" / "a", "finetune-seg")
    (root / "runs" / "a" / "all_results.json").write_text('{"task": "segmentation", "eval_mean_iou": 0.5}')
    return root
