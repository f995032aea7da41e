"""The audit: checks that the history is what was written. Plain rules come first; the fast path is separate.

- `event.py`: the rule for a single event;
- `log_rule.py`: the rule for the log, event after event; `tree.py`: the rule for commits and the Merkle tree;
- `index.py`: the rule for the projection; `copies.py`: what the projection must say about copies;
- `log.py`: reads the log once and applies the rules; `rows.py` and `streams.py` read a database that is not trusted;
- `fast/`: the fast path. It recognises sound events and rows by their bytes. Everything else goes to the plain rules,
  which give the same result for every event, but slower.
"""

from ledger.audit.finding import Finding, Severity
from ledger.audit.index import IndexAudit
from ledger.audit.log import LogAudit

__all__ = ["Finding", "IndexAudit", "LogAudit", "Severity"]
