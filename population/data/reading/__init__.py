"""Read images and labels from folders, tables, arrays and Datasets."""
