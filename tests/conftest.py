"""What every test shares."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers on two cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched from a hub in tests

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _restore_global_state():
    """No test leaves another precision or generator state behind."""
    dtype = torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)
