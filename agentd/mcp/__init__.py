"""MCP: from the bytes of a stream to messages, conversations and what policy asks about them."""
