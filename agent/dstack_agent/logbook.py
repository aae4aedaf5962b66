"""The agent's own log: one line an event, for people or as JSON; in a file where nobody watches."""

import json
import logging
import sys
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

FILE_BYTES = 4 << 20
FILES_KEPT = 2


class JsonLines(logging.Formatter):
    """A JSON object a line: at, level, logger, message, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def open_logbook(file: Path | None, as_json: bool) -> None:
    """Sends everything that is logged to standard error, or to a file that is kept small."""
    handler: logging.Handler = (
        logging.StreamHandler(sys.stderr)
        if file is None
        else RotatingFileHandler(file, maxBytes=FILE_BYTES, backupCount=FILES_KEPT)
    )
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if as_json else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
