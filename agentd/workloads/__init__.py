"""Which processes belong to which agent: selectors, sessions, process table, discovery, cgroups."""
