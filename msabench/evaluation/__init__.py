"""From a trained method to predictions and records."""
