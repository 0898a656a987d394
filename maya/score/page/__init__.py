"""The score report as one HTML file: errors with intervals, utterances aligned, with filters and audio."""

from maya.score.page.curves import read_metrics, series
from maya.score.page.details import UtteranceDetails, read_confidences, table_details
from maya.score.page.write import ScoredSystem, write_comparison_page, write_page

__all__ = [
    "ScoredSystem",
    "UtteranceDetails",
    "read_confidences",
    "read_metrics",
    "series",
    "table_details",
    "write_comparison_page",
    "write_page",
]
