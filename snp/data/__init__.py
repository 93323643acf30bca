"""What are the samples?

A data set is one file in this folder with a subclass of `snp.data.base.ImageData`, and one file of the same stem in
conf/data.
"""
