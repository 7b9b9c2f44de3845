"""The version, told by `neural_renderer.__version__`, by the wheel and by `3D-GAN.py --version`; it stands here alone.

1.1.3 is the version of neural_renderer_pytorch whose interface this is; learn3D's own version follows.
"""
__version__ = "1.1.3+learn3d.2.0.0"
LEARN3D = __version__.partition("+learn3d.")[2]
