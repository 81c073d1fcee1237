"""Images to prepared datasets, groups, splits, plans and loaders."""
