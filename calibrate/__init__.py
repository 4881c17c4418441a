"""calibrate: from data to ranges. One pass over the data (`observe`), any number of strategies after it (`ranges`), or the choice
between them by what they do to the model's outputs (`choose`).

Names are loaded at first use: importing calibrate pulls in neither numpy nor jax.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_WHERE = {
    "observe": "observer",
    "Statistics": "statistics",
    "load_statistics": "archive",
    "ranges": "ranging",
    "channel_ranges": "channels",
    "choose": "choosing",
    "save_ranges": "rangefile",
    "load_ranges": "rangefile",
    "open_data": "data",
    "correct": "correcting",
    "correct_bias": "correction",
    "sweep": "sweeper",
    "round_weights": "weightrounding",
    "improve": "requantizing",
    "propose_splits": "splitting",
    "three_way": "splits",
    "evaluate": "evaluating",
    "compare": "evaluating",
}
__all__ = list(_WHERE)

if TYPE_CHECKING:
    from .archive import load_statistics
    from .channels import channel_ranges
    from .choosing import choose
    from .correcting import correct
    from .correction import correct_bias
    from .data import open_data
    from .evaluating import compare, evaluate
    from .observer import observe
    from .rangefile import load_ranges, save_ranges
    from .ranging import ranges
    from .requantizing import improve
    from .splits import three_way
    from .splitting import propose_splits
    from .statistics import Statistics
    from .sweeper import sweep
    from .weightrounding import round_weights


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module 'calibrate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
