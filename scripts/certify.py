"""
Certify the predictions of models, and compare with attacks and randomised smoothing.

    python scripts/certify.py --models runs/certified --dataset path/to/data --radii 18/255 36/255 72/255 \\
        --norms l2 per_pixel_l2 --attacks pgd apgd --smoothing

`--help` lists the options.
"""

import os

os.environ["LRSEGFORMER_PARSE_ONLY"] = "1"

from lrsegformer.cli.certify import main

if __name__ == "__main__":
    main()
