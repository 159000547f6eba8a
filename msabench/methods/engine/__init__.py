"""How a method is trained, logged, saved and evaluated: the same lines for all. ``methods/base.py`` is the contract."""
