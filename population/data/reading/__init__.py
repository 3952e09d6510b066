"""Readers of images and labels: folders, tables, arrays and Datasets."""
