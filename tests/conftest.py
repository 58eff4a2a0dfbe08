"""Every test runs on poisoned memory (fresh tensors hold NaN) and from one seed."""

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory_and_seed():
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
