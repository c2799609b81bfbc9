"""Several processes that train one network together: what they tell each other, and layers that span them.

`ranks` imports `dmr.seeds` alone, so that methods may use it; `synchronised` may import `dmr.networks` and the methods.
"""
