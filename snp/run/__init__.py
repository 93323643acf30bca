"""How does a job run on devices and disk?"""
