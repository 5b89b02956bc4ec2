"""The `agentd` command: thin commands, each in a module imported only when it runs."""
