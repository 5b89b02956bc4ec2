"""agentd: a host daemon that governs AI agent workloads from outside the agent."""
