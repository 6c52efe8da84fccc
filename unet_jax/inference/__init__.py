"""A trained run on new images: masks, scores and calibration."""
