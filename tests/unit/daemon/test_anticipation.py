"""Where polling takes no CPU that a client and its server could use."""

import pytest

from agentd.daemon.anticipation import leaves_room


@pytest.mark.parametrize(
    ("allowed", "wanted", "room"),
    [
        ({0, 1}, {0, 1}, False),
        ({0, 1}, {0}, True),
        ({0, 1, 2}, {0, 1, 2}, True),
        ({0}, {0}, False),
        ({0}, {1}, True),
        ({1}, {0, 1}, False),
    ],
)
def test_a_cpu_is_left(allowed: set[int], wanted: set[int], room: bool) -> None:
    assert leaves_room(allowed, wanted) == room
