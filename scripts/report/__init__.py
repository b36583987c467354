"""HTML pages, charts, tables and figures."""
