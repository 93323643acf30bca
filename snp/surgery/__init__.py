"""What is the smaller module, and is it right?"""
