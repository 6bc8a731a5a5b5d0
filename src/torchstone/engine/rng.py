"""The random generators that code reaches without naming them: torch's on each device, numpy's, Python's."""

import random

import numpy as np
import torch


def seed(number: int) -> None:
    """Seed all of them."""
    torch.manual_seed(number)  # every device's
    np.random.seed(number % 2**32)
    random.seed(number)


def snapshot() -> dict:
    """Their states, in plain containers that `torch.load(weights_only=True)` reads."""
    numbers = np.random.get_state(legacy=False)
    words = numbers["state"]
    state = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [
            *(numbers["bit_generator"], words["key"].tolist(), words["pos"]),
            *(numbers["has_gauss"], numbers["gauss"]),
        ],
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore(state: dict) -> None:
    """Put a `snapshot` back; a device that is absent here is passed over."""
    torch.set_rng_state(state["torch"])
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
