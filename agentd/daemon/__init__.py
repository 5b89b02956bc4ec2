"""The daemon's processes: supervisor, engine, and what they say to each other."""
