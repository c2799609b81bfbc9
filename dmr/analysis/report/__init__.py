"""The self-contained HTML page of a study: the answer in sentences, facts, tables, embedded figures, and the template.

May import everything else in dmr.analysis; nothing in dmr.analysis imports it.
"""
