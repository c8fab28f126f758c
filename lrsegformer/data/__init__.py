"""Where images come from, what their labels mean, and how they are made ready for the model.

Importing this package is cheap: torch, `datasets` and scikit-learn are loaded by the functions that need them.
"""

from lrsegformer.data.arguments import DataArguments
from lrsegformer.data.examples import open_image
from lrsegformer.data.files.pixels import ImageReading
from lrsegformer.data.labels import LabelSpace
from lrsegformer.data.loading import DataSplits, load_data

__all__ = ["DataArguments", "DataSplits", "ImageReading", "LabelSpace", "load_data", "open_image"]
