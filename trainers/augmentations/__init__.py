"""Augmentations: functions `(images, strength, generator) -> images` on whole batches, registered by name."""
