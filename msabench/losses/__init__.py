"""Loss functions that more than one method may use."""
