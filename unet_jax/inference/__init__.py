"""Use of a trained run: masks of new images, scores, and calibration."""
