"""What is served with the weights: configuration and tokenizer decide what a model says as much as its weights do.

A training's log ends with the digest of the weights. The same weights under another normalization constant, rotary base, scaling of
an adapter or chat template are another model, so these are compared with the base's, and with those of a new adapter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify.io.files import read_json
from verify.models.adapter_types import is_adapter
from verify.models.configuration import ADAPTER, Entries, differing, entries_of, relevant
from verify.models.loading import LoadedModel
from verify.schema.reexecution import Finding


@dataclass(frozen=True, eq=False)
class Served:
    """The deleted model as it is loaded.

    Attributes:
        weights, tokenizer: digests.
        configuration: the entries that decide its output, an adapter's left out.
    """

    weights: str
    tokenizer: str
    configuration: Entries

    def findings(self, base: LoadedModel) -> Iterator[Finding]:
        """Compare configuration and tokenizer with the base's, which training leaves as they are."""
        if self.tokenizer != base.tokenizer_digest:
            yield Finding(kind="tokenizer", what="The model is served with another tokenizer or chat template than its base's.")
        for name, here, there in differing(self.configuration, entries_of(base.model)):
            yield Finding(kind="configuration", what=f"{name} is {here} in the model's configuration, and {there} in its base's.")


def about_adapter(adapted: Any, folder: Path, place: str) -> Iterator[Finding]:
    """Compare the stored configuration of an adapter with that of the one which the training's options attach.

    Args:
        adapted: a model with such an adapter; a whole model has none to compare.
        folder: folder of the stored adapter.
        place: its name in findings.
    """
    if not is_adapter(adapted):
        if (folder / ADAPTER).is_file():
            yield Finding(kind="configuration", what=f"{place} is served as an adapter, and its training made none.")
        return
    if not (folder / ADAPTER).is_file():
        yield Finding(kind="configuration", what=f"{place} lacks {ADAPTER}: its training made an adapter.")
        return
    expected = relevant(adapted.peft_config[adapted.active_adapter].to_dict())
    for name, here, there in differing(relevant(read_json(folder / ADAPTER, constants=True)), expected):
        yield Finding(kind="configuration", what=f"{name} is {here} in the adapter of {place}; its options give {there}.")
