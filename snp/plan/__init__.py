"""Which units stay?"""
