"""Training: what fit, run and regress share."""
