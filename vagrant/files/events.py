#!/opt/agentd/bin/python
"""A consumer of the stream: prints the events in it, and those that come, one JSON object a line.

    /opt/agentd-sample/events.py [SUBJECT]      such as agentd.v1.*.demo.mcp-request
"""

import asyncio
import contextlib
import sys

import nats


async def main(subject="agentd.v1.>"):
    client = await nats.connect("nats://127.0.0.1:4222")
    messages = await client.jetstream().subscribe(subject, stream="AGENTD", ordered_consumer=True)
    async for message in messages.messages:
        print(message.data.decode(), flush=True)


with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main(*sys.argv[1:]))
