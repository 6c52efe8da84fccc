"""Studies: variants of the loss x seeds on one data set, paired, with conclusions that hold (docs/studies.md)."""
