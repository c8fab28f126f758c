"""
Both tasks behind one command with short names; the same as scripts/run.py and `lrsegformer run`.

    python run.py --task segmentation --variant lipschitz --strategy spectral_norm --epochs 30 --batch_size 8 --lr 5e-5
"""

import os

os.environ["LRSEGFORMER_PARSE_ONLY"] = "1"

from lrsegformer.cli.run import main

if __name__ == "__main__":
    main()
