"""The version of lckernels."""

__version__ = "0.1.0"
