"""What do samples say of a layer?"""
