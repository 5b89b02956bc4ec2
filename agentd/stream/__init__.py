"""Streaming: a process of its own that carries the journal to NATS JetStream."""
