"""Factorial studies: what each factor of `search.grid` does, in numbers and figures.

May import dmr.analysis.figures, dmr.analysis.comparison, dmr.analysis.results and dmr.analysis.statistics.
"""
