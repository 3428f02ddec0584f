"""The channels of an audit on its report: each way of asking with its residual, and whether it accuses, certifies or neither."""

from dataclasses import dataclass

from markupsafe import Markup

from verify.report.channel_words import channels_in_a_sentence, outcome_of
from verify.report.charts import Mark, draw_intervals
from verify.schema.channels import ChannelResult
from verify.schema.evidence import Evidence


@dataclass(frozen=True)
class ChannelRow:
    """One channel as it is printed.

    Attributes:
        channel: its numbers.
    """

    channel: ChannelResult

    @property
    def outcome(self) -> str:
        """What it showed, in two or three words."""
        return outcome_of(self.channel)

    @property
    def mark(self) -> str:
        """Style of the outcome: "no" accuses, "yes" certifies, "open" neither."""
        return "no" if self.channel.accused else "yes" if self.channel.certified else "open"


@dataclass(frozen=True)
class ChannelPage:
    """Content of the page about channels.

    Attributes:
        rows: in the audit's order.
        figure: residuals with intervals against the margin; None where no channel has one.
        reading: one sentence with the counts.
        judge: what was compared with, in addition to controls.
    """

    rows: tuple[ChannelRow, ...]
    figure: Markup | None
    reading: str
    judge: str


def channel_page(evidence: Evidence) -> ChannelPage | None:
    """Return the page's content, or None where no channel was judged."""
    if not evidence.channels:
        return None
    rows = tuple(ChannelRow(channel) for channel in evidence.channels)
    drawn = [Mark(row.channel.name, "target", row.channel.residual) for row in rows if row.channel.valid and row.channel.residual]
    margin = evidence.settings.margin
    axis = "residual fraction: 0 as retrained, 1 untouched; shaded: within the margin"
    figure = draw_intervals(drawn, axis, band=(-margin, margin)) if drawn else None
    judge = "the retrained references" if evidence.level_table is None else "the level table"
    return ChannelPage(rows, figure, channels_in_a_sentence(evidence), judge)
