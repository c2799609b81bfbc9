"""One file per figure: a function from results or a comparison to a table, and one from the table to a matplotlib
figure.

`style.py` has what all share, `all_figures.py` lists them. May import dmr.analysis.comparison, dmr.analysis.results
and dmr.analysis.statistics.
"""
