"""What the publisher does not load, as it would stay in memory for ever."""

import subprocess
import sys

SPARED = {"aiohttp", "fast_mail_parser", "importlib.metadata"}
_ASK = "import sys, agentd.stream.__main__; print(*sorted(sys.modules))"


def test_publisher_spares_what_nats_py_loads_only_if_it_can() -> None:
    ran = subprocess.run([sys.executable, "-c", _ASK], check=True, capture_output=True, text=True)
    loaded = set(ran.stdout.split())
    assert "nats.aio.client" in loaded
    assert not loaded & SPARED
