"""
CamVid split by drive, for the study (docs/study.md): folders of links, so that no image is copied.

    LRSEGFORMER_DATA=path/to/data python benchmarks/study/split_camvid.py --output_dir runs/study/data

The file names carry the drive. Two drives are trained on: 0016E5, and of 0006R0 all frames but the last 21. Validation
is the stretch of 0016E5 that CamVid keeps for it, and the last 20 of 0006R0. The third drive, 0001TP, filmed at dusk,
is never trained on.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

HELD_OUT_FRAMES = 20
TRAINED_DRIVE, SHARED_DRIVE, UNSEEN_DRIVE = "0016E5", "0006R0", "0001TP"


def split(camvid: Path) -> dict[str, list[tuple[Path, Path]]]:
    """The pairs of image and mask of `train`, `validation` and `unseen`. One frame between the stretches of a drive is
    left out, because it looks like both its neighbours."""
    drives = {
        drive: _pairs(camvid / "train", camvid / "trainannot", drive)
        for drive in (TRAINED_DRIVE, SHARED_DRIVE, UNSEEN_DRIVE)
    }
    shared = drives[SHARED_DRIVE]
    return {
        "train": drives[TRAINED_DRIVE] + shared[: -HELD_OUT_FRAMES - 1],
        "validation": _pairs(camvid / "val", camvid / "valannot", TRAINED_DRIVE) + shared[-HELD_OUT_FRAMES:],
        "unseen": drives[UNSEEN_DRIVE],
    }


def _pairs(images: Path, masks: Path, drive: str) -> list[tuple[Path, Path]]:
    found = [(image, masks / image.name) for image in sorted(images.glob(f"{drive}_*.png"))]
    if not found:
        raise SystemExit(
            f"{images} holds no frames of drive {drive}; LRSEGFORMER_DATA is the folder that holds camvid."
        )
    return found


def link(pairs: list[tuple[Path, Path]], folder: Path) -> None:
    """Links to the pairs in `folder/images` and `folder/masks`."""
    for kind, position in (("images", 0), ("masks", 1)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for pair in pairs:
            source, place = pair[position].resolve(), folder / kind / pair[position].name
            if not place.is_symlink():
                os.symlink(source, place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder that gets train, validation and unseen")
    output = parser.parse_args().output_dir
    data = Path(os.environ.get("LRSEGFORMER_DATA", "../shared/data"))
    for name, pairs in split(data / "camvid").items():
        link(pairs, output / name)
        print(f"{name}: {len(pairs)} frames")
    for name, folder in (("backbone", "standin-mit-b0"), ("tiny_imagenet10", "tiny_imagenet10")):
        if not (output / name).is_symlink():
            os.symlink((data / folder).resolve(), output / name)


if __name__ == "__main__":
    main()
