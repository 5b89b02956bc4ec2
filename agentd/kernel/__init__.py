"""The kernel side seen from user space: loading, maps, rings, wire structs, feature trials."""
