"""Measurements, each with its recipe; see README.md."""
