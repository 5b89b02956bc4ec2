"""Appends to a journal until it is killed; prints the number on disk after each flush.

Arguments: journal file, boot id, budget in bytes. Run by test_journal.
"""

import sys
import time
from pathlib import Path

from agentd.events.journal import Journal

journal = Journal(Path(sys.argv[1]), int(sys.argv[3]), "h", sys.argv[2])
number = journal.stats().seq
while True:
    for size in range(1 + number % 37):
        journal.append("file.open", time.time_ns(), "w", "s", {"pad": "x" * (size * 20)})
        number += 1
    journal.flush()
    print(number, flush=True)
