"""What keeps a run going and loses nothing of it: devices and processes, the feeding of batches, files that are whole
or not there, checkpoints, locks and signals."""
