"""The claim of a rebuilt shard's rank among its siblings, as evidence, and what the shards' logs showed."""

from pydantic import Field

from verify.io.documents import Frozen
from verify.schema.parts import Digest, Share, VerdictWord


class RankedShard(Frozen):
    """Rank of one rebuilt shard among all shards.

    Attributes:
        shard: its number, from 0.
        records, subjects: forget records that it held, and whom they are about.
        contrast: mean loss of the siblings on these records, less that on controls, minus that of the rebuilt shard: what it still
            knows, nats per token.
        gap: the same of the shard before the deletion.
        remembered, over_forgotten: p-values in both directions, at the margin.
        before: p-value, remembered, of the shard before the deletion in its place.
        controls_p: p-value of its mean loss on the controls among its siblings'; None with fewer than two siblings.
    """

    shard: int = Field(ge=0)
    records: int = Field(ge=1)
    subjects: int = Field(ge=1)
    contrast: float
    gap: float
    remembered: Share
    over_forgotten: Share
    before: Share
    controls_p: Share | None


class Siblings(Frozen):
    """Rebuilt shards of a model, each ranked among the shards that never saw its forget records. It accuses, and never certifies.

    Attributes:
        shards: S.
        controls: never-trained records.
        ranked: the rebuilt shards.
        smallest: 1 / S, below which no p-value lies.
        needed: smallest number of shards with which a rank can accuse at this level.
        verdict, reason: this claim's own word, and why.
    """

    shards: int = Field(ge=2)
    controls: int = Field(ge=1)
    ranked: tuple[RankedShard, ...] = Field(min_length=1)
    smallest: Share
    needed: int = Field(ge=2)
    verdict: VerdictWord
    reason: str


class ShardChecked(Frozen):
    """A shard that was scored, and what was read of it.

    Attributes:
        label: "shard 0", ...; "shard 0 before" for the model before the deletion.
        weights: digest of base and adapter, as its last training log ends with it.
        logs: SHA-256 of its training logs, which name none of the forget records, their subjects or the controls (before the
            deletion: which name the forget records). Empty for a shard without records.
    """

    label: str
    weights: Digest
    logs: tuple[Digest, ...]
