"""Fixtures of all tests. Run one backend by: KERAS_BACKEND=jax pytest"""

from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parent.parent.parent / "shared" / "golden"


@pytest.fixture
def golden():
    """The folder of golden data, which lies beside the repository or not at all."""
    if not GOLDEN.is_dir():
        pytest.skip("no golden data beside the repository")
    return GOLDEN


@pytest.fixture
def rng():
    return np.random.default_rng(0)
