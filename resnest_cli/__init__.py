"""Image classification with ResNeSt, the split-attention network (arXiv 2004.08955)."""

__version__ = "0.1.0"
