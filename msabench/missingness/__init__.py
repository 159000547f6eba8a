"""Which frames of which modality are missing: cells, masks, and their application."""
