"""What draws are for. Free of torch."""

from __future__ import annotations

from enum import IntEnum


class Purpose(IntEnum):
    """What draws are for. The numbers enter the counter, so they are part of the protocol and never change."""

    TEST_FRAMES = 0
    VALIDATION_FRAMES = 1
    VALIDATION_CLIPS = 2
    TRAINING_FRAMES_VIEW0 = 3
    TRAINING_FRAMES_VIEW1 = 4
    TRAINING_CLIPS_VIEW0 = 5
    TRAINING_CLIPS_VIEW1 = 6
    OUTSIDE_VALIDATION_CLIPS = 7
    OUTSIDE_TRAINING_CLIPS_VIEW0 = 8
    OUTSIDE_TRAINING_CLIPS_VIEW1 = 9
    TEST_CLIPS = 10
    TEST_NOISE = 11
    TEST_WORDS = 12
