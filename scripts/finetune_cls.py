"""
Fine-tune SegFormer for image classification.

    accelerate launch scripts/finetune_cls.py --strategy orthogonal
    accelerate launch scripts/finetune_cls.py --strategy orthogonal --dataset path/to/class/folders

`--help` lists the options.
"""

import os

os.environ["LRSEGFORMER_PARSE_ONLY"] = "1"

from lrsegformer.cli.finetune import main

if __name__ == "__main__":
    main("classification")
