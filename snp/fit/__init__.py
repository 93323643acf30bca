"""Which weights take over what the cut units did?"""
