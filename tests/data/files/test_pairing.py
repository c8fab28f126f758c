"""Which image belongs to which mask: suffixes, accents, endings, sub-folders, and what is refused."""

import unicodedata

import pytest

from lrsegformer.data.files.pairing import pair_files
from lrsegformer.errors import InputError


@pytest.fixture
def pair(tmp_path):
    """Pairs empty files of these names, and gives the names of the pairs."""

    def names(images, masks, together=False, **options):
        folders = [tmp_path / "images", tmp_path / ("images" if together else "masks")]
        for folder, files in zip(folders, (images, masks), strict=True):
            for name in files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).touch()
        pairs = pair_files(*folders, **options)
        return [
            tuple(file.relative_to(folder).as_posix() for file, folder in zip(p, folders, strict=True)) for p in pairs
        ]

    return names


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["a.jpg", "b.jpg"], ["a.png", "b.png"]),
        (["a.JPG", "b.Tiff"], ["a.PNG", "b.TIF"]),
        (["a.jpg", "b.jpg"], ["a_mask.png", "b_mask.png"]),
        (["a.jpg", "a_1.jpg"], ["a_mask.png", "a_1_mask.png"]),
        (["ISIC_01.jpg", "ISIC_02.jpg"], ["ISIC_01_segmentation.png", "ISIC_02_segmentation.png"]),
        (["frame_1.png"], ["frame_1_L.png"]),
        (["01_sat.jpg", "02_sat.jpg"], ["01_mask.png", "02_mask.png"]),
        (["21_training.tif", "22_training.tif"], ["21_manual1.gif", "22_manual1.gif"]),
        (
            ["ulm/ulm_0_1_leftImg8bit.png", "bonn/bonn_0_2_leftImg8bit.png"],
            ["ulm/ulm_0_1_gtFine_labelIds.png", "bonn/bonn_0_2_gtFine_labelIds.png"],
        ),
        (["x/1.png", "y/1.png"], ["x/1.png", "y/1.png"]),
        (["1.5.jpg", "1.6.jpg"], ["1.5.png", "1.6.png"]),
        (["a.jpg", "b.jpg"], ["a.jpg.png", "b.jpg.png"]),
        (["Scan 1.JPG", "Scan 2.JPG"], ["scan 1.png", "scan 2.png"]),
        (["a.jpg", "A.jpg"], ["A.png", "a.png"]),
    ],
)
def test_pairs_are_found(pair, images, masks):
    partner = {image: mask for image, mask in zip(images, masks, strict=True)}
    if images == ["a.jpg", "A.jpg"]:
        partner = {"a.jpg": "a.png", "A.jpg": "A.png"}
    assert dict(pair(images, masks)) == partner


def test_composed_and_decomposed_accents_are_one(pair):
    name = "Zoë Müller café"
    composed, decomposed = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    assert composed != decomposed
    images, masks = [f"{composed} 1.jpg", f"{decomposed} 2.jpg"], [f"{decomposed} 1_é.png", f"{composed} 2_é.png"]
    assert pair(images, masks) == list(zip(images, masks, strict=True))
    assert pair([], [], mask_suffix=unicodedata.normalize("NFD", "_é")) == list(zip(images, masks, strict=True))


def test_options_choose_among_several_masks(pair):
    kinds = ("color", "instanceIds", "labelIds", "labelTrainIds")
    images = [f"ulm_{index}_leftImg8bit.png" for index in (1, 2)]
    masks = [f"ulm_{index}_gtFine_{kind}.png" for index in (1, 2) for kind in kinds]
    with pytest.raises(
        InputError, match="4 files .*ulm_1_gtFine_color.png, ulm_1_gtFine_instanceIds.png.*--mask_suffix"
    ):
        pair(images, masks)
    expected = [(f"ulm_{index}_leftImg8bit.png", f"ulm_{index}_gtFine_labelIds.png") for index in (1, 2)]
    assert pair(images, masks, mask_suffix="_gtFine_labelIds") == expected
    assert pair(images, masks, image_suffix="_leftImg8bit", mask_suffix="_gtFine_labelIds.png") == expected
    with pytest.raises(InputError, match=r"--mask_suffix _gtCoarse: no file in .*ulm_1_gtFine_color.png"):
        pair(images, masks, mask_suffix="_gtCoarse")


def test_images_and_masks_in_one_folder(pair):
    files = ["a.jpg", "a_mask.png", "b.jpg", "b_mask.png"]
    with pytest.raises(InputError, match="holds images and masks together.*--mask_suffix"):
        pair(files, [], together=True)
    expected = [("a.jpg", "a_mask.png"), ("b.jpg", "b_mask.png")]
    for options in ({"mask_suffix": "_mask"}, {"mask_suffix": ".png"}, {"image_suffix": ".jpg"}):
        assert pair(files, [], together=True, **options) == expected


def test_one_stem_by_ending(pair):
    files = ["a.jpg", "a.png", "b.JPG", "b.PNG"]
    expected = [("a.jpg", "a.png"), ("b.JPG", "b.PNG")]
    assert pair(files, [], together=True, mask_suffix=".png") == expected
    assert pair(files, [], together=True, image_suffix=".jpg", mask_suffix=".png") == expected


@pytest.mark.parametrize(
    ("images", "masks", "said"),
    [
        (["a.jpg", "a.png"], ["a.png"], r"a\.png: a\.jpg has the same stem"),
        (["a.jpg"], ["a.png", "a.tif"], r"a\.tif: a\.png has the same stem"),
        (["é.jpg"], [unicodedata.normalize(form, "é") + ".png" for form in ("NFC", "NFD")], "has the same stem"),
        (["a.jpg"], ["a_mask.png", "a_edge.png"], r"a\.jpg: 2 files .*a_edge\.png, a_mask\.png.*--mask_suffix _mask"),
        (["a.jpg", "b.jpg"], ["a.png", "a_mask.png"], r"a\.jpg: 2 files .*a\.png, a_mask\.png"),
        (["a.jpg", "b.jpg"], ["a_mask.png"], r"2 file\(s\) without mask .*a\.jpg, b\.jpg.*--mask_suffix"),
        (["img_1.jpg"], ["img_2.png"], r"1 file\(s\) without mask"),
        (["x/1.png"], ["1.png"], r"1 file\(s\) without mask"),
    ],
)
def test_what_cannot_be_paired_is_named(pair, images, masks, said):
    with pytest.raises(InputError, match=said) as caught:
        pair(images, masks)
    assert "\n" not in str(caught.value)


def test_hidden_files_and_others_are_no_images(pair, tmp_path):
    assert pair(["a.jpg", ".b.jpg", "notes.txt"], ["a.png", ".thumbs/c.png"]) == [("a.jpg", "a.png")]
