"""What `dmr.training` is made of: the settings of a run, its optimisation, the handing on of its epochs, and the
evaluation of the finished run.

These files may import all of the science except `dmr.training` and `dmr.serving`.
"""
