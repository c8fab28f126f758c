"""The classes of ImageNet, and of its two variants of 200."""

from lrsegformer.data.imagenet import NUM_CLASSES, SUBSETS, imagenet_indices, subset_indices


def test_the_index_is_the_place_in_sorted_order():
    indices = imagenet_indices()
    assert len(indices) == NUM_CLASSES
    assert list(indices) == sorted(indices)
    assert list(indices.values()) == list(range(NUM_CLASSES))


def test_the_variants_have_200_classes_each():
    assert {name: len(subset_indices(name)) for name in SUBSETS} == dict.fromkeys(SUBSETS, 200)
    assert all(list(subset_indices(name)) == sorted(subset_indices(name)) for name in SUBSETS)
    # Stingray, goldfinch and junco are the first of one; goldfish, great white shark and hammerhead of the other.
    assert subset_indices("imagenet-a")[:3] == (6, 11, 13)
    assert subset_indices("imagenet-r")[:3] == (1, 2, 4)


def test_the_sample_of_real_images_is_named_by_these_wnids(real_data):
    folders = sorted(folder.name for folder in (real_data / "imagenet1k_sample").iterdir())
    assert [imagenet_indices()[wnid] for wnid in folders] == list(range(0, NUM_CLASSES, 10))
