"""Reports of load tests, comparisons and tuning runs: one HTML file without a network, Markdown, or CSV."""

from plansmith_perf.report.documents import Document, name_documents, read_document
from plansmith_perf.report.summary import Summary, summarize
from plansmith_perf.report.writing import check_report_path, write_report

__all__ = [
    "Document",
    "Summary",
    "check_report_path",
    "name_documents",
    "read_document",
    "summarize",
    "write_report",
]
