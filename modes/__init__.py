"""The modes, a file each: what `3D-GAN.py --mode=...` runs. They import libraries, and never one another."""
