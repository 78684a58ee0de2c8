"""The server's log as JSON, a document a line, for whatever collects logs.

A message keeps its text; what programs search by stands in fields of its own, which loggers give
as `extra={"fields": …}`.
"""

import json
import logging
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
    """`time`, `level`, `logger`, `message`, the record's fields, and `traceback` where one is."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, in ASCII: nothing that was logged can end it or reach a terminal."""
        moment = datetime.fromtimestamp(record.created, UTC)
        document = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document)
