"""catscans: which source should I pretrain on?"""
__version__ = "0.1.0"
