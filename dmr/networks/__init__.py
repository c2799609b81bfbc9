"""What a network is: its design, the network itself, its decoder, and layers that encoders share.

May import the settings, data, encoders, methods, fusion, losses and ranks; `layers` and `decoders` import torch alone.
"""
