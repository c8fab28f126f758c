"""How many samples a forward pass takes, given how many an optimizer step takes."""

from lrsegformer.errors import InputError

DEFAULT_TOTAL_BATCH_SIZE = 16


def split_total_batch_size(
    total: int | None, per_device: int | None, accumulation: int | None, world_size: int
) -> tuple[int, int, int]:
    """
    Divide the samples of an optimizer step over devices and accumulation steps.

    Args:
        total (`int`, *optional*):
            Samples an optimizer step. Where it is not given, a `per_device` alone is not accumulated, as in
            [`~transformers.TrainingArguments`]; without that too it is 16.
        per_device (`int`, *optional*): samples a device and forward pass.
        accumulation (`int`, *optional*): forward passes an optimizer step.
        world_size (`int`): number of processes, one a device.

    Returns:
        `tuple[int, int, int]`: total, per device, accumulation; the first is the product of the others and
        `world_size`.

    Raises:
        [`~lrsegformer.errors.InputError`]: where no such numbers exist, naming the options.
    """
    given = {
        "total_batch_size": total,
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": accumulation,
    }
    for name, value in given.items():
        if value is not None and value < 1:
            raise InputError(f"--{name} is {value}: give a whole number above 0.")
    if total is None and per_device is not None and accumulation is None:
        accumulation = 1
    if per_device is not None and accumulation is not None:
        product = per_device * accumulation * world_size
        if total not in (None, product):
            raise InputError(
                f"--total_batch_size {total} is not --per_device_train_batch_size {per_device} x "
                f"--gradient_accumulation_steps {accumulation} x {world_size} processes = {product}: leave "
                "one of them out."
            )
        return product, per_device, accumulation
    total = DEFAULT_TOTAL_BATCH_SIZE if total is None else total
    divisor = world_size * (per_device or accumulation or 1)
    if total % divisor:
        raise InputError(
            f"--total_batch_size {total} cannot be divided over {world_size} processes"
            + (f" of --per_device_train_batch_size {per_device}" if per_device else "")
            + (f" with --gradient_accumulation_steps {accumulation}" if accumulation else "")
            + f": give a multiple of {divisor}."
        )
    quotient = total // divisor
    return (total, per_device, quotient) if per_device is not None else (total, quotient, accumulation or 1)
