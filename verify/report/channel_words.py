"""What channels showed, in words and counts, for tables and terminals."""

from verify.schema.channels import ChannelResult
from verify.schema.evidence import Evidence

BEYOND, WITHIN, OPEN, NO_POWER, NOTHING = "beyond the margin", "within the margin", "open", "too imprecise", "no statement"


def channels_in_a_sentence(evidence: Evidence) -> str:
    """Count the channels by outcome: "3 of 12 channels beyond the margin, 6 within, 1 open, 2 without power"."""
    outcomes = [outcome_of(channel) for channel in evidence.channels]
    said = [f"{outcomes.count(BEYOND)} of {len(outcomes)} channels beyond the margin", f"{outcomes.count(WITHIN)} within"]
    if count := outcomes.count(OPEN):
        said.append(f"{count} open")
    if count := outcomes.count(NO_POWER) + outcomes.count(NOTHING):
        said.append(f"{count} without power")
    return ", ".join(said)


def channels_in_a_cell(evidence: Evidence) -> str:
    """Count for a table of methods: "3/12 beyond" of those that can accuse, else "9/9 within" of those that can certify.

    Where none can certify, "0/12 beyond" says what was seen: "0/0 within" would read as a failure.
    """
    channels = evidence.channels
    if not channels:
        return "-"
    beyond, within = sum(channel.accused for channel in channels), sum(channel.certified for channel in channels)
    certifiable = sum(channel.certifiable for channel in channels)
    if beyond or not certifiable:
        return f"{beyond}/{sum(channel.valid for channel in channels)} beyond"
    return f"{within}/{certifiable} within"


def outcome_of(channel: ChannelResult) -> str:
    """Say in two or three words what a channel showed."""
    if channel.accused:
        return BEYOND
    if channel.certified:
        return WITHIN
    if channel.certifiable:
        return OPEN
    return NO_POWER if channel.valid else NOTHING
