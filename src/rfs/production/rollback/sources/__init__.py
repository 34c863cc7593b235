"""Where conditions measure: Prometheus, HTTP, SQL, commands, Python, processes, the host, log files.

`parse_source` reads the keys of a `[[conditions]]` table that say where; `open_source` gives what measures. A source
only measures: whatever happens to it becomes a Sample, and `conditions.assess` judges.
"""

from rfs.production.rollback.sources.base import Source, SourceContext, SourceSpec
from rfs.production.rollback.sources.table import SPECS, open_source, parse_source

__all__ = ["SPECS", "Source", "SourceContext", "SourceSpec", "open_source", "parse_source"]
