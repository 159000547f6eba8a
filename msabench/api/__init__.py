"""The functions of ``import msabench``, which imports each when it is asked for."""
