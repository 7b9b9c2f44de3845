"""The only place of the version number. `neural_renderer.__version__`, the wheel and `3D-GAN.py --version` use it.

The first part, 1.1.3, is the version of neural_renderer_pytorch whose interface this package has; the part after
`+learn3d.` is the version of learn3D.
"""
__version__ = "1.1.3+learn3d.2.0.0"
LEARN3D = __version__.partition("+learn3d.")[2]
