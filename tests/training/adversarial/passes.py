"""What the tests of adversarial training look at: a batch, and the forward passes that are made of it."""


def first_batch(trainer):
    batch = next(iter(trainer.get_train_dataloader()))
    return {**batch, "labels": batch["labels"].long()}


class Passes:
    """Images and modes of a model's forward passes."""

    def __init__(self, model):
        self.images, self.modes = [], []
        model.register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, model, args, kwargs):
        self.images.append(kwargs["pixel_values"].detach().clone())
        self.modes.append(model.training)
