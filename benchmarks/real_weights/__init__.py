"""Which networks that people know come with their weights in a package, and how are they read?"""
