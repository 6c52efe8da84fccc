"""Files that other programs open, made from a trained run: ONNX, StableHLO, and others (docs/export.md)."""
