"""Fixtures of all tests. Run one backend by: KERAS_BACKEND=jax pytest"""

import os
from pathlib import Path

import numpy as np
import pytest

from bert4keras3._environment import uses_tf_keras

# Commands that are tested leave nothing in the user's cache folder.
os.environ.setdefault("BERT4KERAS3_COMPILATION_CACHE", "0")

needs_keras3 = pytest.mark.skipif(
    uses_tf_keras(), reason="the test itself uses what only Keras 3 has: TF_KERAS=1 is set"
)
GOLDEN = Path(__file__).parent.parent.parent / "shared" / "golden"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """With TF_KERAS=1 a test is skipped where the library itself says that it needs Keras 3."""
    try:
        return (yield)
    except NotImplementedError as error:
        if "needs Keras 3, and TF_KERAS=1" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture
def golden():
    """The folder of golden data, which lies beside the repository or not at all."""
    if not GOLDEN.is_dir():
        pytest.skip("no golden data beside the repository")
    return GOLDEN


@pytest.fixture
def rng():
    return np.random.default_rng(0)
