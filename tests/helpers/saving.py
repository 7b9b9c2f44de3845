"""Write checkpoints like a run does."""
from engine import checkpoints


def save_last(folder, state, keep=0):
    """Write `last.pt`; the previous one becomes `last.prev.pt`. The newest `keep` checkpoints stay as `step-*.pt`."""
    checkpoints.write_next(folder, state)
    checkpoints.name_last(folder, state["step"], keep)
