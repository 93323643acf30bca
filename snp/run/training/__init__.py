"""How is a network trained and scored?"""
