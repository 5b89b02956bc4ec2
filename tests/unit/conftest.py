"""Hypothesis for all unit tests: how long an example takes says nothing on a machine at work."""

from hypothesis import settings

settings.register_profile("agentd", deadline=None)
settings.load_profile("agentd")
