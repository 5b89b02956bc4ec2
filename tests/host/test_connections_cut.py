"""Connections that the rules come to deny are cut when the rules change."""

import socket
import subprocess

from tests.host.conftest import WORKLOAD, StartDaemon
from tests.host.support.daemon import workload

CLIENT = """
import socket, sys
cut, free = (socket.create_connection((name, int(sys.argv[1]))) for name in sys.argv[2:])
print("connected", flush=True)
cut.settimeout(60)
try:
    print(cut.recv(1))
except OSError as error:
    print(error.errno, flush=True)
print(free.send(b"x"))
"""


def test_what_is_denied_is_cut_and_the_rest_stays(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(rules={"workload.yaml": workload(WORKLOAD)})
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = str(server.getsockname()[1])
        command = ["/usr/bin/python3", "-c", CLIENT, port, "127.55.0.1", "127.56.0.1"]
        with subprocess.Popen(
            daemon.run(WORKLOAD, command), stdout=subprocess.PIPE, text=True
        ) as client:
            assert client.stdout
            assert client.stdout.readline() == "connected\n"
            rule = {
                "id": "closed-now",
                "on": "network.connect",
                "match": {"cidr": ["127.55.0.0/24"]},
                "action": "deny",
            }
            daemon.write_rules("z.yaml", {"rules": [rule]})
            output, _ = client.communicate(timeout=90)
    assert output.splitlines() == ["103", "1"]  # ECONNABORTED
    event = daemon.wait_for(lambda event: event["class"] == "network.cut")
    assert event["decision"]["outcome"] == "cut"
    assert event["network"]["address"] == "127.55.0.1"
