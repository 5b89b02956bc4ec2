"""What is generated into docs/ is up to date."""

from tests.adversarial.table import DOCUMENT, table


def test_the_table_of_evasions() -> None:
    assert DOCUMENT.read_text() == table(), "python -m tests.adversarial.table"
