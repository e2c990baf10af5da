"""`forgefront report RUN`: the whole run in one HTML file, readable offline and on a phone."""

from .write import write_report

__all__ = ["write_report"]
