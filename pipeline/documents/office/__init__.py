"""Office documents without an office suite: the text, tables and pictures that they carry, as HTML that MuPDF lays out.

Layout, fonts and formulas that nobody computed are lost; with LibreOffice installed its conversion is drawn instead
(`office_suite.py`). Runs inside the sandboxed process, and imports nothing outside Python's own library.
"""
