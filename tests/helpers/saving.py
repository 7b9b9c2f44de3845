"""Checkpoints as a run leaves them."""
from engine import checkpoints


def save_last(folder, state, keep=0):
    """Write `last.pt`; the one before it stays as `last.prev.pt`. `keep` so many also as `step-*.pt`."""
    checkpoints.write_next(folder, state)
    checkpoints.name_last(folder, state["step"], keep)
