"""What goes to the Hugging Face Hub beside the weights."""

from lrsegformer.hub.card import write_model_card

__all__ = ["write_model_card"]
