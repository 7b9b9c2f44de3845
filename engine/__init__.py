"""The machinery under a training run: devices and processes, loading of batches, atomic files, checkpoints, locks and
signals."""
