"""Objectives: a candidate in, numbers out (accuracy, corruption error, adversarial accuracy, size, latency)."""

from __future__ import annotations

__all__ = ["MEASUREMENTS"]

MEASUREMENTS = 2
"""Raised whenever what objectives measure of one and the same candidate changes: corruptions, attacks, their defaults.

A run that goes on under another number than it began with is told so, for its scores are then of two kinds. 1 is what
runs have that state none; with 2 came other draws of shot noise, frost and JPEG, and PGD's further losses and its steps
of a quarter of the radius."""
