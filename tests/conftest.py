import pytest
import torch as th


@pytest.fixture(autouse=True)
def one_thread():
    """Small networks get slower with more than one thread, and two test runs share the machine."""
    th.set_num_threads(1)
