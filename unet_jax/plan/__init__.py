"""What a training step will cost on a device that is not here, by asking that device's compiler."""
