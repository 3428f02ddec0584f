"""Keys and values of the tokens that all texts of a pass begin with, computed once.

Chats begin with the same system message and the first marks of their template: 24 of 58 tokens in a question with a short answer.
A causal model's states at these positions do not depend on what follows, so one row of them goes through the layers and every
batch reads its keys and values. The results of a text's own tokens are the same up to rounding.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from verify.data.encoding import Encoded
from verify.models.log_probabilities import head_sees

ARCHITECTURES = ("gemma", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3")
"""Architectures whose cache is known to continue a text as if it were read whole (each is tested)."""
FIXED_ROTATIONS = (None, "default", "linear", "llama3", "yarn")
"""Rotary embeddings that turn a position by the same angle in texts of any length; "dynamic" and "longrope" do not."""
WORTH = 16
"""Least number of common tokens for which a pass of their own pays."""
LEAST_ROWS = 4
"""Least number of texts for which it pays."""
ROWS_OF_KEYS = 4
"""Cached tokens of a batch, as a multiple of the tokens that it may send through the layers: keys and values take memory, too."""


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """A common beginning of texts, as a model has read it.

    Attributes:
        length: number of its tokens P.
        cache: keys and values of one row.
    """

    length: int
    cache: Any

    def without(self, window: Encoded) -> Encoded:
        """Return a text without its beginning; none of those tokens is scored."""
        own = slice(self.length, None)
        return Encoded(window.input_ids[own], window.scored[own], window.secret[own], window.record)

    def counted(self, tokens: int) -> int:
        """Return the number of tokens that a text counts in a batch's budget: its own, or its share of the cached ones."""
        return max(tokens, self.length // ROWS_OF_KEYS)

    def before(self, attention_mask: Tensor) -> dict[str, Any]:
        """Return arguments of a forward call that put the beginning before a batch's own tokens.

        Args:
            attention_mask: attention mask of the own tokens [B, L].
        """
        rows = len(attention_mask)
        cache = copy.deepcopy(self.cache)  # a call appends to it
        for one in (cache, *getattr(cache, "of_other_adapters", ())):
            one.batch_repeat_interleave(rows)
        mask = torch.cat([attention_mask.new_ones(rows, self.length), attention_mask], dim=1)  # [B, P + L]
        return {"attention_mask": mask, "past_key_values": cache, "use_cache": True}


def read_shared_prefix(model: nn.Module, windows: Sequence[Encoded]) -> SharedPrefix | None:
    """Read the common beginning of encoded texts; None where there is none that pays, or the architecture is not a known one.

    Args:
        model: in evaluation mode; gradients must be switched off.
        windows: the texts.
    """
    config: Any = getattr(model, "config", None)
    if getattr(config, "model_type", None) not in ARCHITECTURES or len(windows) < LEAST_ROWS:
        return None
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") not in FIXED_ROTATIONS:
        return None  # the same beginning has other keys before a longer text
    length = common_length(windows)
    if length < WORTH:
        return None
    from transformers import DynamicCache

    cache = DynamicCache(config=config)
    ids = torch.from_numpy(windows[0].input_ids[:length].astype(np.int64))[None].to(next(model.parameters()).device)
    with head_sees(model, lambda hidden: hidden[:, -1:]):  # the head's output is not read
        model(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, use_cache=True)
    return SharedPrefix(length, cache)


def common_length(windows: Sequence[Encoded]) -> int:
    """Count the tokens that all texts begin with, up to the one that predicts the first scored token of any of them."""
    first, length = windows[0].input_ids, len(windows[0].input_ids) - 1
    for window in windows:
        scored = np.flatnonzero(window.scored)
        length = min(length, int(scored[0]) - 1 if len(scored) else len(window.input_ids) - 1)
        other = np.flatnonzero(window.input_ids[: max(length, 0)] != first[: max(length, 0)])
        length = int(other[0]) if len(other) else length
        if length < 1:
            return 0
    return length
