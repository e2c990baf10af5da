"""Objectives: a candidate in, numbers out (accuracy, corruption error, adversarial accuracy, size, latency)."""
