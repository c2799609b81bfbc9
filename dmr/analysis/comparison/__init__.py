"""Configurations of one or several studies side by side: which are compared, paired tests, intervals, and the caveats
a reader needs.

`comparison.py` is where to start. May import dmr.analysis.results and dmr.analysis.statistics.
"""
