"""Carrying out verdicts."""
