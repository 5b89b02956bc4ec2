"""Events: the envelope, the journal that stores them, and queries over it."""
