"""What reads the published datasets: the interface they share, a class each for NIPS17 and Pascal3D (CVPR18's is
in `datasets.py`, the simplest), their files, and the cache that keeps images decoded."""
