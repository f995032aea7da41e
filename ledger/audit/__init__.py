"""The audit: is the history what was written? The plain rule comes first; speed stands behind one seam.

- `event.py`: the rule of one event, by itself;
- `log_rule.py`: the rule of the log, event after event; `tree.py`: that of commits and Merkle tree;
- `index.py`: the rule of the projection; `copies.py`: what it must say of copies;
- `log.py`: reads the log once and applies the rules; `rows.py` and `streams.py` read a database that is not trusted;
- `fast/`: the seam. It recognises sound events and rows by their bytes. Whatever it does not recognise goes to the
  plain rule, which gives the same result for every event, only slower.
"""

from ledger.audit.finding import Finding, Severity
from ledger.audit.index import IndexAudit
from ledger.audit.log import LogAudit

__all__ = ["Finding", "IndexAudit", "LogAudit", "Severity"]
