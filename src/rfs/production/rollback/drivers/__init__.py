"""The drivers that come with rfs, one module or package for each kind of component."""
