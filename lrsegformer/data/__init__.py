"""Where images come from, what their labels mean, and how they are made ready for the model.

Importing this package is cheap: torch, `datasets` and scikit-learn are loaded by the functions that need them.
"""

from .arguments import DataArguments
from .labels import LabelSpace
from .loading import DataSplits, load_data

__all__ = ["DataArguments", "DataSplits", "LabelSpace", "load_data"]
