"""Whether the data sets of a run are still the ones that a checkpoint was trained on, wherever their files are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warmstart.config import ConfigError

CONTENT = "data"  # an entry of a checkpoint: `DataSpec.content`


def compare_data(now: Mapping[str, Any], before: Any) -> dict[str, str]:
    """Return what has changed in the data sets of DATASETS.TRAIN and DATASETS.TEST since a checkpoint.

    Args:
        now: `DataSpec.content` of this run.
        before: the checkpoint's; None: an older version wrote it.

    Returns:
        By key "" if the sets have the same samples, else a sentence. A key is missing if the content of one of its
        sets is not known, so that only what the config says can be compared.

    Raises:
        ConfigError: `before` is not such a content.

    >>> photos = {"text": "imagefolder:a", "options": {}, "name": "", "size": 9, "classes": ["x"], "digest": "8f"}
    >>> compare_data({"TRAIN": [photos | {"size": 7}]}, {"TRAIN": [photos]})
    {'DATASETS.TRAIN': 'DATASETS.TRAIN: imagefolder:a has 7 samples, and had 9 at the checkpoint'}
    """
    if before is None:
        return {}
    found = {}
    try:
        for key, sets in now.items():
            pairs = [*zip(before[key], sets, strict=True)] if len(before[key]) == len(sets) else []
            if pairs and all(map(_is_comparable, *zip(*pairs, strict=True))):
                problem = next(filter(None, (_difference(*pair) for pair in pairs)), "")
                found[f"DATASETS.{key}"] = f"DATASETS.{key}: {problem}" if problem else ""
    except (LookupError, TypeError, AttributeError) as error:
        text = f"the checkpoint's entry {CONTENT!r} is not one of ours: {type(error).__name__}: {error}"
        raise ConfigError(text) from None
    return found


def _is_comparable(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether two sets can be told apart: by their hashes, or because both have one registered name."""
    same = (before["text"], before["options"]) == (now["text"], now["options"])
    return bool(before["digest"] and now["digest"]) or (same and not before["digest"] and not now["digest"])


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return how two sets differ; "" if they do not."""
    text = now["text"]
    if before["size"] != now["size"]:
        return f"{text} has {now['size']:,} samples, and had {before['size']:,} at the checkpoint"
    if before["classes"] != now["classes"]:
        only = ", ".join(sorted({*before["classes"]} ^ {*now["classes"]})[:5]) or "their order"
        return f"{text} has other classes than at the checkpoint ({only})"
    if before["digest"] != now["digest"]:
        return f"{text} has as many samples as at the checkpoint, but not the same ones"
    if before["name"] != now["name"]:
        return f"the scores of {text} were called {before['name']!r} at the checkpoint; give it this name again"
    return ""
