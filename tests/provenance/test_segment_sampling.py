"""What a sample of segments finds: by hand, against simulation, and as drawn."""

from math import isclose

import numpy as np
import pytest

from verify.provenance.segment_sampling import detection_probability, drawn_segments, fewest_found, sample_size


def test_known_answers() -> None:
    """One false of ten, three executed: three tenths; two false: 1 - C(8, 3) / C(10, 3) = 8 / 15; all is certain."""
    assert isclose(detection_probability(10, 1, 3), 0.3)
    assert isclose(detection_probability(10, 2, 3), 8 / 15)
    assert detection_probability(10, 1, 10) == 1
    assert detection_probability(10, 0, 10) == detection_probability(10, 3, 0) == 0
    assert (fewest_found(10, 3, 0.95), fewest_found(10, 10, 0.99), fewest_found(10, 0, 0.95)) == (6, 1, None)
    assert (sample_size(100, 5, 0.99), sample_size(4, 1, 0.99), sample_size(7, 0, 0.99)) == (59, 4, 7)
    for wrong in ((0, 0, 0), (5, 6, 1), (5, 1, 6)):
        with pytest.raises(ValueError, match="expected 0"):
            detection_probability(*wrong)


def test_against_simulation() -> None:
    """The rate at which drawn segments contain a false one, over nonces, is the formula's."""
    segments, executed, false = 40, 12, {3, 17, 30}
    hits = [not false.isdisjoint(drawn_segments(segments, executed, f"nonce {n}", "root")) for n in range(4000)]
    expected = detection_probability(segments, len(false), executed)
    assert abs(np.mean(hits) - expected) < 4 * np.sqrt(expected * (1 - expected) / len(hits))


def test_the_draw_depends_on_nonce_and_root_and_repeats() -> None:
    """The same nonce and root give the same sample, without repetition; either changed gives another."""
    one = drawn_segments(50, 20, "a", "r")
    assert one == drawn_segments(50, 20, "a", "r") == tuple(sorted(set(one)))
    assert len(one) == 20
    assert len({one, drawn_segments(50, 20, "b", "r"), drawn_segments(50, 20, "a", "s")}) == 3
