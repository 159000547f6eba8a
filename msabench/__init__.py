"""msabench: a benchmark of multimodal sentiment analysis with missing modalities.

Importing the package is cheap on purpose: no torch, no pandas.
"""

__version__ = "0.1.0"
