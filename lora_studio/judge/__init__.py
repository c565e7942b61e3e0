"""Verdicts in plain words, with their evidence as numbers. Needs nothing but numpy."""
