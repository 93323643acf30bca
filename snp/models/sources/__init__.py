"""Where do weights come from?"""
