"""The one process that drives a study: connect to Ray, run each stage on Ray Tune, show progress, publish; and `dmr
train`, the same without a search.

May import every package above.
"""
