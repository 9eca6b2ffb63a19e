"""The rounding of channels, against torchvision's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from torchvision.models._utils import _make_divisible

from fusiform.tables import MOBILENET_V2_WIDTHS, mobilenet_v2_channels, round_channels


@given(st.floats(0.01, 10_000), st.sampled_from([1, 4, 8, 16]))
def test_rounding_is_torchvisions(channels, divisor):
    assert round_channels(channels, divisor) == _make_divisible(channels, divisor)


@given(st.floats(0.01, 10_000))
def test_rounding_stays_near(channels):
    rounded = round_channels(channels)
    assert rounded % 8 == 0
    assert rounded >= max(8, 0.9 * channels)
    assert rounded <= max(8, channels + 8)


def test_channels_at_the_papers_widths():
    assert mobilenet_v2_channels(1.0) == (32, (16, 24, 32, 64, 96, 160, 320), 1280)
    assert mobilenet_v2_channels(0.35) == (16, (8, 8, 16, 24, 32, 56, 112), 1280)
    assert mobilenet_v2_channels(1.4) == (48, (24, 32, 48, 88, 136, 224, 448), 1792)
    assert MOBILENET_V2_WIDTHS == (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
