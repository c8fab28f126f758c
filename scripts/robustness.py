"""
Score models under attack, corruption and shifted data.

    accelerate launch scripts/robustness.py --models runs/baseline runs/stable_softplus --dataset path/to/data \\
        --attacks pgd segpgd cospgd sea --norm linf --eps 0.25 0.5 1 2 4 --corruptions common

Stopped, the same command continues. `--help` lists the options.
"""

import os

os.environ["LRSEGFORMER_PARSE_ONLY"] = "1"

from lrsegformer.cli.robustness import main

if __name__ == "__main__":
    main()
