from __future__ import annotations

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile("mpqtool", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("mpqtool")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
