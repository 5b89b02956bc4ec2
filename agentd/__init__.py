"""agentd: a host daemon that governs AI agent workloads from outside the agent."""

__version__ = "0.1.0"
