"""Reaching the Hugging Face Hub: what a download costs, and errors that name the remedy."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrsegformer.data.arguments import DataArguments
from lrsegformer.errors import InputError, reason_of

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

_OFFLINE_WAYS = "work offline with `--dataset digits` (built in) or `--dataset <a local folder>`"


def load_splits(dataset_id: str, arguments: DataArguments) -> datasets.DatasetDict:
    """Downloads a data set (or finds it in the cache) and makes sure that it has the splits the arguments name."""
    import datasets

    wanted = (arguments.train_split, arguments.validation_split)
    config, revision = arguments.dataset_config, arguments.dataset_revision
    published_size = _check_access(dataset_id, revision)
    try:
        builder = datasets.load_dataset_builder(dataset_id, config, revision=revision)
        _check_splits(builder.info.splits, wanted, dataset_id)
        _announce_download(dataset_id, builder, published_size)
        splits = datasets.load_dataset(dataset_id, config, revision=revision)
    except InputError:
        raise
    # `datasets` reports a missing id, configuration or network, a script, and a failed download with these.
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise explain(error, dataset_id) from error
    _check_splits(splits, wanted, dataset_id)
    return splits


def _check_splits(splits: Any, wanted: tuple[str, str], dataset_id: str) -> None:
    for split, option in zip(wanted, ("--train_split", "--validation_split"), strict=True):
        if splits and split not in splits:
            raise InputError(f"{option} {split}: {dataset_id} has the splits {', '.join(splits)}; name one of them")


def _check_access(dataset_id: str, revision: str | None) -> int | None:
    """Asks the Hub once, where `datasets` would retry for half a minute; returns the size in bytes if it is known."""
    from datasets import config
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        info = HfApi().dataset_info(dataset_id, revision=revision, timeout=10, files_metadata=True)
        if info.gated:
            HfApi().auth_check(dataset_id, repo_type="dataset")
    except (GatedRepoError, RepositoryNotFoundError, HFValidationError) as error:
        raise explain(error, dataset_id) from error
    # Anything else is the network's fault, and its exception classes belong to whichever HTTP client the Hub uses.
    except Exception as error:
        owner_folder = f"{dataset_id.split('/')[0]}___*" if "/" in dataset_id else dataset_id
        if not any(Path(config.HF_DATASETS_CACHE).glob(owner_folder)):
            raise explain(error, dataset_id) from error
        logger.warning("the Hub cannot be reached (%s); trying the local copy of %s", error, dataset_id)
        return None
    return sum(file.size or 0 for file in info.siblings or []) or None


def _announce_download(dataset_id: str, builder: Any, published_size: int | None) -> None:
    if Path(builder.cache_dir).exists():
        return
    size = builder.info.download_size or published_size
    shown = f"about {size / 1e9:.1f} GB" if size else "of unknown size"
    logger.warning("%s will be downloaded: %s, into %s", dataset_id, shown, Path(builder.cache_dir).parent)


def explain(error: Exception, dataset_id: str) -> InputError:
    """Turns what `datasets` and the Hub client raise into one line that names the remedy."""
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    # A failed download is reported as an error "while generating" the data set; what failed is its cause.
    root = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
    reason = reason_of(root)
    page = f"https://huggingface.co/datasets/{dataset_id}"
    if isinstance(error, GatedRepoError) or "gated dataset" in reason:
        return InputError(f"{dataset_id} is gated; accept its licence at {page}, then run `hf auth login`")
    if isinstance(error, (RepositoryNotFoundError, DatasetNotFoundError, HFValidationError)):
        return InputError(
            f"--dataset {dataset_id}: neither a local folder nor a data set on the Hub that you may read; check the "
            f"name, run `hf auth login` if it is private, or {_OFFLINE_WAYS}"
        )
    if "scripts are no longer supported" in reason:
        return InputError(f"{dataset_id} is a script data set, which `datasets` no longer runs; name a Parquet copy")
    if "onfig" in reason and isinstance(error, ValueError):
        return InputError(f"--dataset_config for {dataset_id}: {' '.join(str(error).split())}")
    return InputError(f"{dataset_id} cannot be loaded from the Hub ({reason}); check the network, or {_OFFLINE_WAYS}")
