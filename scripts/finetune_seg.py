"""
Fine-tune SegFormer for semantic segmentation.

    accelerate launch scripts/finetune_seg.py --strategy stable_softplus
    accelerate launch scripts/finetune_seg.py --strategy stable_softplus --dataset path/to/ADEChallengeData2016
    accelerate launch scripts/finetune_seg.py --config my_run.yaml --lambda_lip 0.05

`--help` lists the options.
"""

import os

os.environ["LRSEGFORMER_PARSE_ONLY"] = "1"

from lrsegformer.cli.finetune import main

if __name__ == "__main__":
    main("segmentation")
