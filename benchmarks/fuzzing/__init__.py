"""How are random networks pruned and checked by code that shares nothing with the package?"""
