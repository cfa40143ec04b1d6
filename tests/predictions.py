"""What several test files say of predictions."""

import numpy as np


def assert_same_predictions(one, other, obs):
    """The first three steps of an episode."""
    state = other_state = None
    for _ in range(3):
        action, state = one.predict(obs, state, deterministic=True)
        other_action, other_state = other.predict(obs, other_state, deterministic=True)
        np.testing.assert_array_equal(action, other_action)
        np.testing.assert_array_equal(state, other_state)
